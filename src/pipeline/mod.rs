//! A checked config, compiled into pure operators: stages in front of the windows, results behind them.

mod custom;
mod input;
mod intake;
mod results;
mod stage;

pub use custom::{CustomStage, Event, Outcome, StageError, StageRegistry};
pub use intake::IntakeOperator;
pub use results::{IntakeResults, Results};
pub use stage::{StageOperator, Staged};
