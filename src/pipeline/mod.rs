//! A checked config, compiled into pure operators: stages in front of the windows, results behind them.

mod alerts;
mod calls;
mod custom;
mod input;
mod intake;
mod observed;
mod part;
mod parts;
mod plan;
mod results;
mod stage;
mod tap;
mod trace;

pub use calls::{Answers, Call, answers};
pub use custom::{AsyncStage, CustomStage, Event, Outcome, StageError, StageRegistry};
pub use intake::IntakeOperator;
pub use observed::{Disorder, Observed, Probe};
pub use plan::{Missing, Plan, Step, in_stored_order, step};
pub use results::{IntakeResults, Results};
pub use stage::{StageOperator, Staged};
pub use tap::{Tap, TapCounts, Taps};
