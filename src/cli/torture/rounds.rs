//! The rounds: a daemon, producers, perhaps a store that is away, and a kill.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::ProgressBar;

use super::daemon::{Daemon, Environment, Home, Started};
use super::lines::{Lines, PRODUCERS};
use super::producers::{Address, Sender};
use super::store::{Held, Store};
use super::{Run, Trouble};
use crate::moments;

/// A random kill comes within so long after the start, …
const KILL_WITHIN_MS: u64 = 450;
/// … and where a moment does not come, one comes after this.
const MOMENT_PATIENCE: Duration = Duration::from_millis(1_500);
/// The store is away for so long, …
const AWAY_MS: u64 = 250;
/// … and in one of so many rounds for longer than the daemon waits for a lock before it calls a store away.
const AWAY_LONG_EVERY: u64 = 50;
const AWAY_LONG: Duration = Duration::from_millis(5_600);
/// Of three rounds two end at a named moment.
const RANDOM_EVERY: u64 = 3;
/// Producers may take so long for what is left when nobody disturbs them any more.
const LAST_PATIENCE: Duration = Duration::from_secs(120);

/// What was broken.
#[derive(Default)]
pub(super) struct Broken {
    pub(super) kills: u64,
    /// Kills at each named moment.
    pub(super) hits: BTreeMap<&'static str, u64>,
    pub(super) holds: u64,
    pub(super) cuts: u64,
    pub(super) clock_steps: u64,
    /// Producers whose lines were on their way when a kill came.
    pub(super) interrupted: u64,
    /// How often each moment was wanted.
    tries: BTreeMap<&'static str, u64>,
}

/// All rounds of a run.
pub(super) struct Rounds {
    pub(super) lines: Lines,
    pub(super) broken: Broken,
    /// Rounds that are over.
    pub(super) done: u64,
    senders: Vec<Sender>,
    moments: Vec<&'static str>,
    /// Whether they were asked for by name.
    only_moments: bool,
    random: fastrand::Rng,
}

impl Rounds {
    pub(super) fn new(lines: Lines, moments: Vec<&'static str>) -> Self {
        let mut random = fastrand::Rng::with_seed(lines.seed);
        let only_moments = !moments.is_empty() && moments.len() < moments::MOMENTS.len();
        let mut moments = moments;
        random.shuffle(&mut moments);
        let senders = PRODUCERS.iter().map(|producer| Sender::new(producer, lines)).collect();
        let mut broken = Broken::default();
        broken.hits.extend(moments.iter().map(|moment| (*moment, 0)));
        Self { lines, broken, done: 0, senders, moments, only_moments, random }
    }

    /// All of them, and the rest of the lines at the end, undisturbed; then the daemon is stopped.
    pub(super) fn run(&mut self, run: &Run, home: &Home, store: &Store, bar: &ProgressBar) -> Result<(), Trouble> {
        for round in 1..=self.lines.rounds {
            self.round(round, run, home, store)?;
            self.done = round;
            bar.set_position(round);
            bar.set_message(format!("{} kills", self.broken.kills));
        }
        bar.set_message("the rest");
        match home.start(run, &Environment::default())? {
            Started::Killed => Err(Trouble::Broken("somebody else has killed the daemon".to_owned())),
            Started::Ready(mut daemon) => {
                self.send_rest(run, &mut daemon)?;
                daemon.settle(run)?;
                daemon.stop(run)
            }
        }
    }

    fn round(&mut self, round: u64, run: &Run, home: &Home, store: &Store) -> Result<(), Trouble> {
        let moment = self.next_moment(round);
        let clock = moments::are_built_in().then(|| self.clock(round));
        self.broken.clock_steps += clock.map_or(0, |(before, after)| u64::from(before != after));
        let daemon = match home.start(run, &Environment { moment, clock, sound: false })? {
            Started::Ready(daemon) => daemon,
            Started::Killed => return self.killed(moment),
        };
        let addresses: Vec<Address> = self.senders.iter().map(|sender| Address::of(&daemon, sender.producer)).collect();
        let over = AtomicBool::new(false);
        let mut senders = std::mem::take(&mut self.senders);
        let lines = self.lines;
        let (ended, sent) = std::thread::scope(|scope| {
            let sending: Vec<_> = senders
                .iter_mut()
                .zip(&addresses)
                .map(|(sender, to)| {
                    let (upto, over) = (lines.upto(sender.producer, round), &over);
                    scope.spawn(move || sender.send(to, upto, over, false))
                })
                .collect();
            let ended = self.disturb(round, run, home, store, daemon, moment);
            over.store(true, Ordering::Relaxed);
            let sent: Vec<_> = sending.into_iter().filter_map(|sender| sender.join().ok()).collect();
            (ended, sent)
        });
        self.senders = senders;
        ended?;
        for sent in sent {
            self.broken.interrupted += u64::from(!sent?);
        }
        Ok(())
    }

    /// Takes the store away, perhaps, and ends the daemon, if it does not end itself.
    fn disturb(
        &mut self,
        round: u64,
        run: &Run,
        home: &Home,
        store: &Store,
        mut daemon: Daemon,
        moment: Option<(&'static str, u64)>,
    ) -> Result<(), Trouble> {
        let held = self.take_store_away(round, run, home, store)?;
        let at_most = match moment {
            Some(_) => MOMENT_PATIENCE,
            None => Duration::from_millis(self.random.u64(0..KILL_WITHIN_MS)),
        };
        let ended = run.wait(at_most, || daemon.ended())?;
        if ended.is_none() {
            self.broken.kills += 1;
            daemon.kill();
            drop(held);
            return Ok(());
        }
        drop(held);
        use std::os::unix::process::ExitStatusExt;
        match ended {
            Some(status) if status.signal() == Some(9) => self.killed(moment),
            _ => Err(Trouble::Broken(format!("the daemon ended by itself: {}", home.last_words()))),
        }
    }

    /// Every fourth round: holds it for a while, sometimes until after the kill, or cuts its connections.
    fn take_store_away(&mut self, round: u64, run: &Run, home: &Home, store: &Store) -> Result<Option<Held>, Trouble> {
        let long = round % AWAY_LONG_EVERY == AWAY_LONG_EVERY / 2;
        if !round.is_multiple_of(4) && !long {
            return Ok(None);
        }
        // Not always when nothing has happened yet.
        run.wait(Duration::from_millis(self.random.u64(0..150)), || None::<()>)?;
        let lasting = Duration::from_millis(self.random.u64(20..AWAY_MS));
        if !long && self.random.bool() && store.cut(run, lasting) {
            self.broken.cuts += 1;
            return Ok(None);
        }
        let Some(held) = store.hold(home) else { return Ok(None) };
        self.broken.holds += 1;
        run.wait(if long { AWAY_LONG } else { lasting }, || None::<()>)?;
        Ok(self.random.bool().then_some(held))
    }

    /// It was killed, and not by us.
    fn killed(&mut self, moment: Option<(&'static str, u64)>) -> Result<(), Trouble> {
        let Some((name, _)) = moment else {
            return Err(Trouble::Broken("somebody else has killed the daemon".to_owned()));
        };
        self.broken.kills += 1;
        *self.broken.hits.entry(name).or_default() += 1;
        Ok(())
    }

    /// The moment that was wanted least often: at once where it did not come the last time, else at one of its first
    /// passes.
    fn next_moment(&mut self, round: u64) -> Option<(&'static str, u64)> {
        if self.moments.is_empty() || (!self.only_moments && round.is_multiple_of(RANDOM_EVERY)) {
            return None;
        }
        let broken = &mut self.broken;
        let tries = |name: &str| broken.tries.get(name).copied().unwrap_or(0);
        let name = self.moments.iter().copied().min_by_key(|name| tries(name))?;
        let missed = tries(name) > broken.hits.get(name).copied().unwrap_or(0);
        *broken.tries.entry(name).or_default() += 1;
        Some((name, if missed { 1 } else { self.random.u64(1..=4) }))
    }

    /// How wrong the clock is at first, and then: mostly little; sometimes it goes back by an hour, and in the last rounds
    /// ahead by one (from where no later round comes back: ingest time never does).
    fn clock(&mut self, round: u64) -> (i64, i64) {
        let mut wrong = || match self.random.u32(0..8) {
            0 => -3_600_000,
            1 if round * 4 > self.lines.rounds * 3 => 3_600_000,
            _ => self.random.i64(-2_000..1_000),
        };
        (wrong(), wrong())
    }

    fn send_rest(&mut self, run: &Run, daemon: &mut Daemon) -> Result<(), Trouble> {
        let addresses: Vec<Address> = self.senders.iter().map(|sender| Address::of(daemon, sender.producer)).collect();
        let over = AtomicBool::new(false);
        let lines = self.lines;
        let sent = std::thread::scope(|scope| {
            let sending: Vec<_> = self
                .senders
                .iter_mut()
                .zip(&addresses)
                .map(|(sender, to)| {
                    let (upto, over) = (lines.all(sender.producer), &over);
                    scope.spawn(move || sender.send(to, upto, over, true))
                })
                .collect();
            let done = run.wait(LAST_PATIENCE, || {
                let ended = daemon.ended().is_some();
                (ended || sending.iter().all(std::thread::ScopedJoinHandle::is_finished)).then_some(())
            });
            over.store(true, Ordering::Relaxed);
            let sent: Vec<_> = sending.into_iter().filter_map(|sender| sender.join().ok()).collect();
            done.map(|_| sent)
        })?;
        for (sent, sender) in sent.into_iter().zip(&self.senders) {
            if !sent? {
                let name = sender.producer.name;
                return Err(Trouble::Broken(format!(
                    "{name}: not all of its lines are durable although nobody disturbs it"
                )));
            }
        }
        Ok(())
    }
}
