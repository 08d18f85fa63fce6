//! A checked config, compiled into pure operators: stages in front of the windows, results behind them.

mod alerts;
mod custom;
mod input;
mod intake;
mod parts;
mod plan;
mod results;
mod stage;

pub use custom::{CustomStage, Event, Outcome, StageError, StageRegistry};
pub use intake::IntakeOperator;
pub use plan::{Missing, Plan, Step, in_stored_order, step};
pub use results::{IntakeResults, Results};
pub use stage::{StageOperator, Staged};
