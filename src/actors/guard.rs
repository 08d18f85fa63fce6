//! How the end of an actor is noticed: a guard that it owns says so when it is dropped, panicking or not.

use tokio::sync::mpsc;

/// Why a generation ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ended {
    /// An actor panicked or stopped; which.
    Actor(String),
    /// Another writer has taken over.
    Fenced,
    /// The store refuses the pipeline.
    Refused(String),
    /// It waits until an operator has done something.
    Paused(String),
    /// The store went away in a commit, and what became of that is not known: the next generation reads it.
    Away(String),
    /// The records do not follow one another, or the journal cannot be read.
    Broken(String),
}

/// Tells the keeper of a generation how it ended; of several ends the first counts.
#[derive(Clone)]
pub struct Keeper(mpsc::UnboundedSender<Ended>);

impl Keeper {
    /// A keeper, and where it is heard.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Ended>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    /// The generation has ended.
    pub fn end(&self, ended: Ended) {
        // Nobody listens any more where it has ended already.
        let _ = self.0.send(ended);
    }

    /// A guard for an actor.
    pub fn guard(&self, actor: impl Into<String>) -> Guard {
        Guard { keeper: self.clone(), actor: actor.into() }
    }
}

/// Lives as long as its actor.
pub struct Guard {
    keeper: Keeper,
    actor: String,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.keeper.end(Ended::Actor(format!("the {} ended", self.actor)));
    }
}
