//! Custom stages that wait for something: a batch's events call them at once, as many as the stage allows, and go on in
//! their order when all have answered.
//!
//! A batch is taken through the stages until a call has no answer yet; what that leaves behind is thrown away. When the
//! answers are there, it is taken through again, up to the next such stage; and when none is missing, for good. So stages
//! stay functions of an event, and an event's parts, order and account are made in one place.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::future::join_all;
use futures_util::{FutureExt, StreamExt, stream};

use super::custom::{AsyncStage, CustomStage, Event, Outcome, StageError};
use super::part::Part;
use super::parts::{TRANSIENT_PAUSES, panic_text, still_failing};
use super::stage::{Refusal, StageOperator, Staged};
use crate::clock::Clock;
use crate::event::{Batch, LetterKind};

/// Which call: row, stage, and which part of which part of the event.
type Key = Vec<u32>;

/// What a custom stage made of an event.
type Answer = Result<(Event, Outcome), Refusal>;

/// The calls of a batch.
#[derive(Default)]
pub(super) struct Calls {
    answers: HashMap<Key, Answer>,
    open: Vec<Call>,
}

/// A call that waits for its answer.
pub struct Call {
    key: Key,
    stage: AsyncStage,
    name: String,
    event: Event,
}

/// Answers to calls.
pub struct Answers(Vec<(Key, Answer)>);

/// Calls all of them, of each stage as many at once as it allows.
pub async fn answers(calls: Vec<Call>, clock: Clock) -> Answers {
    let mut stages: HashMap<String, (usize, Vec<Call>)> = HashMap::new();
    for call in calls {
        stages.entry(call.name.clone()).or_insert((call.stage.at_once, Vec::new())).1.push(call);
    }
    let all = stages.into_values().map(|(at_once, calls)| {
        stream::iter(calls).map(|call| call.answer(&clock)).buffer_unordered(at_once).collect::<Vec<_>>()
    });
    Answers(join_all(all).await.into_iter().flatten().collect())
}

impl Call {
    async fn answer(self, clock: &Clock) -> (Key, Answer) {
        let refusal = |kind, reason| Refusal { kind, stage: format!("custom {}", self.name), reason };
        let mut pauses = TRANSIENT_PAUSES.iter();
        let answer = loop {
            match AssertUnwindSafe((self.stage.call)(self.event.clone())).catch_unwind().await {
                Ok((event, Ok(outcome))) => break Ok((event, outcome)),
                Ok((_, Err(StageError::Bad(reason)))) => break Err(refusal(LetterKind::Custom, reason)),
                Ok((_, Err(StageError::Transient(reason)))) => match pauses.next() {
                    Some(pause) => clock.sleep(*pause).await,
                    None => break Err(refusal(LetterKind::Custom, still_failing(&reason))),
                },
                Err(panic) => break Err(refusal(LetterKind::Panic, panic_text(&*panic))),
            }
        };
        (self.key, answer)
    }
}

impl StageOperator {
    /// The calls that a batch needs the answers of before it can be applied.
    pub fn calls(&mut self, batch: &Arc<Batch>) -> Vec<Call> {
        if !self.waits || !self.takes(batch) {
            return Vec::new();
        }
        let (account, mut scratch) = (self.account, Staged { rows: self.empty_rows(batch), ..Staged::default() });
        for row in 0..batch.decoded.len() {
            let is_bad = batch.decoded.bad.binary_search_by_key(&(row as u32), |(bad, _)| *bad).is_ok();
            let time = if is_bad { None } else { self.event_time(batch, row).ok() };
            let Some(time) = time.filter(|time| !self.watermark().is_ahead(*time, batch.ingest_time)) else { continue };
            // How it ends is of no interest yet.
            let _ = self.stages(&mut Part::new(batch, row, time, i64::MIN), 0, &mut scratch);
            self.forget_computed();
        }
        self.account = account;
        std::mem::take(&mut self.calls.open)
    }

    /// Takes answers to the calls of the batch that comes next.
    pub fn learn(&mut self, answers: Answers) {
        self.calls.answers.extend(answers.0);
    }

    /// The batch has been applied.
    pub(super) fn forget_answers(&mut self) {
        self.calls.answers.clear();
    }

    /// What a custom stage makes of an event; where that is not known yet, what it returns is thrown away.
    pub(super) fn call_or_wait(
        &mut self,
        custom: &CustomStage,
        name: &str,
        (part, stage): (&Part<'_>, usize),
        event: &mut Event,
    ) -> Result<Outcome, Refusal> {
        let mut key = vec![part.row as u32, stage as u32];
        key.extend(&part.path);
        if let Some(answer) = self.calls.answers.get(&key) {
            let (answered, outcome) = answer.clone()?;
            *event = answered;
            return Ok(outcome);
        }
        match custom {
            CustomStage::Sync(custom) => {
                let answer = self.call(custom, name, event).map(|outcome| (event.clone(), outcome));
                self.calls.answers.insert(key, answer.clone());
                answer.map(|(_, outcome)| outcome)
            }
            CustomStage::Async(stage) => {
                let (stage, name, event) = (stage.clone(), name.to_owned(), event.clone());
                self.calls.open.push(Call { key, stage, name, event });
                Ok(Outcome::Drop)
            }
        }
    }
}
