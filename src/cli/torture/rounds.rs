//! The rounds: a daemon, producers, perhaps a store that is away, and a kill.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use indicatif::ProgressBar;

use super::daemon::{Daemon, Environment, Home, KILL, Started};
use super::lines::{Lines, PRODUCERS, Producer};
use super::pipelines;
use super::producers::{Address, Sender};
use super::store::{Held, Store};
use super::{Run, Trouble};
use crate::cli::error::CliError;
use crate::moments;

/// A random kill comes within so long after the start, …
const KILL_WITHIN_MS: u64 = 450;
/// … and where a moment does not come, one comes after this, or so long after all lines were sent.
const MOMENT_PATIENCE: Duration = Duration::from_secs(20);
const MOMENT_AFTER: Duration = Duration::from_millis(400);
/// In one of so many rounds the store is away, …
const AWAY_EVERY: u64 = 3;
/// … for at most so long, …
const AWAY_MS: u64 = 250;
/// … and in one of so many rounds for longer than the daemon waits for a lock before it calls a store away.
const AWAY_LONG_EVERY: u64 = 50;
const AWAY_LONG: Duration = Duration::from_millis(5_600);
/// In a build that has them all other rounds end at a named moment.
const RANDOM_EVERY: u64 = 4;
/// Each daemon has at most so many window actors a pipeline: no result depends on it.
const WINDOW_ACTORS: u64 = 3;
/// Producers may take so long for what is left when nobody disturbs them any more.
const LAST_PATIENCE: Duration = Duration::from_secs(120);

/// Where it happens.
#[derive(Clone, Copy)]
pub(super) struct Ground<'a> {
    pub(super) run: &'a Run,
    pub(super) home: &'a Home,
    pub(super) store: &'a Store,
}

/// What was broken.
#[derive(Default)]
pub(super) struct Damage {
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
    pub(super) damage: Damage,
    /// Rounds that are over.
    pub(super) done: u64,
    senders: Vec<Sender>,
    moments: Vec<&'static str>,
    /// Whether they were asked for by name.
    only_moments: bool,
    random: fastrand::Rng,
}

impl Rounds {
    /// Of the moments at which it kills, and whether at these only.
    pub(super) fn new(lines: Lines, moments: Vec<&'static str>, only_moments: bool) -> Self {
        let mut random = fastrand::Rng::with_seed(lines.seed);
        let mut moments = moments;
        random.shuffle(&mut moments);
        let senders = PRODUCERS.iter().map(|producer| Sender::new(producer, lines)).collect();
        let mut damage = Damage::default();
        damage.hits.extend(moments.iter().map(|moment| (*moment, 0)));
        Self { lines, damage, done: 0, senders, moments, only_moments, random }
    }

    /// All of them, from the middle on with another config, and the rest of the lines and letters at the end, undisturbed;
    /// then the daemon is stopped.
    pub(super) fn run(&mut self, ground: Ground<'_>, mended: &str, bar: &ProgressBar) -> Result<(), Trouble> {
        for round in 1..=self.lines.rounds {
            if round == self.lines.rounds / 2 + 1 {
                ground.home.change(mended)?;
            }
            self.round(round, ground)?;
            self.done = round;
            bar.set_position(round);
            bar.set_message(format!("{} kills", self.damage.kills));
        }
        bar.set_message("the rest");
        match ground.home.start(ground.run, &Environment::default())? {
            Started::Killed => Err(Trouble::Broken("somebody else has killed the daemon".to_owned())),
            Started::Ready(mut daemon) => {
                let (lines, rounds) = (self.lines, self.lines.rounds);
                // The lines that close windows come when all others are there.
                self.send_rest(ground.run, &mut daemon, |producer| lines.upto(producer, rounds))?;
                self.send_rest(ground.run, &mut daemon, |producer| lines.all(producer))?;
                daemon.settle(ground.run)?;
                for pipeline in pipelines::replayed() {
                    daemon.replay_all(ground.run, pipeline)?;
                }
                daemon.settle(ground.run)?;
                daemon.stop(ground.run)
            }
        }
    }

    fn round(&mut self, round: u64, ground: Ground<'_>) -> Result<(), Trouble> {
        let moment = self.next_moment(round);
        let clock = moments::are_built_in().then(|| self.clock(round));
        let window_actors = self.random.u64(1..=WINDOW_ACTORS);
        self.damage.clock_steps += clock.map_or(0, |(before, after)| u64::from(before != after));
        let environment = Environment { moment, clock, window_actors, sound: false };
        let mut daemon = match ground.home.start(ground.run, &environment)? {
            Started::Ready(daemon) => daemon,
            Started::Killed => return self.killed(moment),
        };
        let wanted = moment.is_some_and(|(name, _)| name.contains("replay") || name == "flush-counted");
        let patience = Duration::from_millis(if wanted { 3_000 } else { self.random.u64(0..200) });
        for pipeline in pipelines::replayed() {
            // It may be starting, or be killed by it.
            ground.run.wait(patience, || daemon.replay(pipeline).map(drop).or_else(|| daemon.ended().map(drop)))?;
        }
        let lines = self.lines;
        let upto = |producer: &Producer| lines.upto(producer, round);
        let mut senders = std::mem::take(&mut self.senders);
        let addresses = addresses(&senders, &daemon);
        let (ended, sent) = sending(&mut senders, &addresses, upto, false, |left| {
            let held = self.take_store_away(round, ground)?;
            let ended = self.wait_for_end(&mut daemon, ground.run, moment, left)?;
            daemon.kill();
            drop(held);
            Ok::<_, Trouble>(ended)
        });
        self.senders = senders;
        match ended? {
            None => self.damage.kills += 1,
            Some(status) if status.signal() == Some(KILL) => self.killed(moment)?,
            Some(status) => {
                let words = ground.home.last_words();
                return Err(Trouble::Broken(format!("the daemon ended by itself ({status}): {words}")));
            }
        }
        for sent in sent {
            self.damage.interrupted += u64::from(!sent?);
        }
        Ok(())
    }

    /// Waits until it is time for a kill, or the daemon has ended itself; `left` producers still send.
    fn wait_for_end(
        &mut self,
        daemon: &mut Daemon,
        run: &Run,
        moment: Option<(&'static str, u64)>,
        left: &AtomicUsize,
    ) -> Result<Option<ExitStatus>, Trouble> {
        if moment.is_none() {
            let within = Duration::from_millis(self.random.u64(0..KILL_WITHIN_MS));
            return run.wait(within, || daemon.ended());
        }
        let all_sent = || (left.load(Ordering::Relaxed) == 0).then_some(None);
        let ended = run.wait(MOMENT_PATIENCE, || daemon.ended().map(Some).or_else(all_sent))?;
        match ended.flatten() {
            Some(status) => Ok(Some(status)),
            None => run.wait(MOMENT_AFTER, || daemon.ended()),
        }
    }

    /// Every third round: holds the store for a while, sometimes until after the kill, or cuts its connections.
    fn take_store_away(&mut self, round: u64, ground: Ground<'_>) -> Result<Option<Held>, Trouble> {
        let Ground { run, home, store } = ground;
        let long = round % AWAY_LONG_EVERY == AWAY_LONG_EVERY / 2;
        if !round.is_multiple_of(AWAY_EVERY) && !long {
            return Ok(None);
        }
        // Not always when nothing has happened yet.
        run.wait(Duration::from_millis(self.random.u64(0..150)), || None::<()>)?;
        let lasting = Duration::from_millis(self.random.u64(20..AWAY_MS));
        if !long && self.random.bool() && store.cut(run, lasting) {
            self.damage.cuts += 1;
            return Ok(None);
        }
        let Some(held) = store.hold(home) else { return Ok(None) };
        self.damage.holds += 1;
        run.wait(if long { AWAY_LONG } else { lasting }, || None::<()>)?;
        Ok(self.random.bool().then_some(held))
    }

    /// It was killed, and not by us.
    fn killed(&mut self, moment: Option<(&'static str, u64)>) -> Result<(), Trouble> {
        let Some((name, _)) = moment else {
            return Err(Trouble::Broken("somebody else has killed the daemon".to_owned()));
        };
        self.damage.kills += 1;
        *self.damage.hits.entry(name).or_default() += 1;
        Ok(())
    }

    /// The moment that was hit least often: its first pass where it was missed before, else one of its first passes.
    fn next_moment(&mut self, round: u64) -> Option<(&'static str, u64)> {
        if self.moments.is_empty() || (!self.only_moments && round.is_multiple_of(RANDOM_EVERY)) {
            return None;
        }
        let damage = &mut self.damage;
        let count = |of: &BTreeMap<&'static str, u64>, name: &str| of.get(name).copied().unwrap_or(0);
        let missed = |name: &str| count(&damage.tries, name) - count(&damage.hits, name);
        // One that was missed comes again soon, but not for ever: it may be one that cannot come here.
        let name = *self.moments.iter().min_by_key(|name| 3 * count(&damage.hits, name) + missed(name))?;
        let pass = if missed(name) > 0 { 1 } else { self.random.u64(1..=4) };
        *damage.tries.entry(name).or_default() += 1;
        Some((name, pass))
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

    fn send_rest(&mut self, run: &Run, daemon: &mut Daemon, upto: impl Fn(&Producer) -> u64) -> Result<(), Trouble> {
        let addresses = addresses(&self.senders, daemon);
        let (waited, sent) = sending(&mut self.senders, &addresses, upto, true, |left| {
            let over = |daemon: &mut Daemon| daemon.ended().is_some() || left.load(Ordering::Relaxed) == 0;
            run.wait(LAST_PATIENCE, || over(daemon).then_some(()))
        });
        waited?;
        for (sent, sender) in sent.into_iter().zip(&self.senders) {
            if !sent? {
                let name = sender.producer.name;
                let why = format!("{name}: not all of its lines are durable although nobody disturbs it");
                return Err(Trouble::Broken(why));
            }
        }
        Ok(())
    }
}

fn addresses(senders: &[Sender], daemon: &Daemon) -> Vec<Address> {
    senders.iter().map(|sender| Address::of(daemon, sender.producer)).collect()
}

/// Lets all send up to a number, each on a thread of its own, for as long as something else takes, which is told how many
/// still send; what came of both.
fn sending<T>(
    senders: &mut [Sender],
    addresses: &[Address],
    upto: impl Fn(&Producer) -> u64,
    hurry: bool,
    meanwhile: impl FnOnce(&AtomicUsize) -> T,
) -> (T, Vec<Result<bool, Trouble>>) {
    let over = AtomicBool::new(false);
    let left = AtomicUsize::new(senders.len());
    std::thread::scope(|scope| {
        let (over, left) = (&over, &left);
        let mut begun = Vec::new();
        for (sender, to) in senders.iter_mut().zip(addresses) {
            let upto = upto(sender.producer);
            begun.push(scope.spawn(move || {
                let sent = sender.send(to, upto, over, hurry);
                left.fetch_sub(1, Ordering::Relaxed);
                sent
            }));
        }
        let done = meanwhile(left);
        over.store(true, Ordering::Relaxed);
        let bug = || Err(Trouble::Cli(CliError::Bug("a producer panicked".to_owned())));
        (done, begun.into_iter().map(|sender| sender.join().unwrap_or_else(|_| bug())).collect())
    })
}
