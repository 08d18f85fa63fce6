//! The watermark: the event time up to which a pipeline believes it has seen everything.

use super::WatermarkSpec;

/// One a pipeline, judged event by event. Its value and the silence are its whole state, so that a restored one goes on
/// exactly as one that was never stopped.
#[derive(Clone, Debug)]
pub struct Watermark {
    spec: WatermarkSpec,
    value: Option<i64>,
    silence_ms: i64,
}

impl Watermark {
    /// Before any event.
    pub fn new(spec: WatermarkSpec) -> Self {
        Self::restore(spec, None, 0)
    }

    /// As it was at a checkpoint.
    pub fn restore(spec: WatermarkSpec, value: Option<i64>, silence_ms: i64) -> Self {
        Self { spec, value, silence_ms }
    }

    /// Where it stands, unix ms; `i64::MIN` before any event.
    pub fn value(&self) -> i64 {
        self.value.unwrap_or(i64::MIN)
    }

    /// What a checkpoint keeps of it; `None` before any event.
    pub fn checkpoint(&self) -> Option<i64> {
        self.value
    }

    /// How long the stream has been silent; a checkpoint keeps this, too.
    pub fn silence_ms(&self) -> i64 {
        self.silence_ms
    }

    /// Whether an event is too far ahead of its ingest time to be believed.
    pub fn is_ahead(&self, event_time: i64, ingest_time: i64) -> bool {
        event_time > ingest_time.saturating_add(self.spec.max_ahead_ms)
    }

    /// Takes an event with a usable time that is not ahead. A clock that runs ahead cannot close a window early, since
    /// the ingest time bounds the event time.
    pub fn observe(&mut self, event_time: i64, ingest_time: i64) {
        let seen = event_time.min(ingest_time).saturating_sub(self.spec.delay_ms);
        self.value = Some(self.value.map_or(seen, |value| value.max(seen)));
    }

    /// A line was decoded: the silence is over.
    pub fn line(&mut self) {
        self.silence_ms = 0;
    }

    /// So much more silence has passed. What of it lies beyond `idle` moves the watermark on, from where it stands: a
    /// stream that begins to be silent does not jump to now.
    pub fn tick(&mut self, silence_ms: u32) {
        let beyond = |silence: i64| silence.saturating_sub(self.spec.idle_ms).max(0);
        let silence = self.silence_ms.saturating_add(i64::from(silence_ms));
        let pace = beyond(silence) - beyond(self.silence_ms);
        self.silence_ms = silence;
        self.value = self.value.map(|value| value.saturating_add(pace));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: WatermarkSpec = WatermarkSpec { delay_ms: 5, idle_ms: 30, max_ahead_ms: 100 };

    #[test]
    fn it_is_the_greatest_time_less_the_delay_and_never_goes_back() {
        let mut watermark = Watermark::new(SPEC);
        assert_eq!((watermark.value(), watermark.checkpoint()), (i64::MIN, None));
        watermark.observe(100, 1_000);
        assert_eq!(watermark.value(), 95);
        watermark.observe(50, 1_000);
        assert_eq!(watermark.value(), 95);
        watermark.observe(101, 1_000);
        assert_eq!((watermark.value(), watermark.checkpoint()), (96, Some(96)));
    }

    #[test]
    fn a_clock_that_runs_ahead_moves_it_no_further_than_the_ingest_time() {
        let mut watermark = Watermark::new(SPEC);
        watermark.observe(1_090, 1_000);
        assert_eq!(watermark.value(), 995);
        assert!(!watermark.is_ahead(1_100, 1_000));
        assert!(watermark.is_ahead(1_101, 1_000));
        assert!(!watermark.is_ahead(i64::MAX, i64::MAX));
    }

    #[test]
    fn silence_beyond_idle_moves_it_at_the_clocks_pace() {
        let mut watermark = Watermark::new(SPEC);
        watermark.tick(1_000);
        assert_eq!(watermark.checkpoint(), None);
        watermark.line();
        watermark.observe(100, 100);
        watermark.tick(20);
        assert_eq!(watermark.value(), 95);
        watermark.tick(20);
        assert_eq!(watermark.value(), 105);
        watermark.tick(7);
        assert_eq!(watermark.value(), 112);
        watermark.line();
        watermark.observe(110, 150);
        assert_eq!(watermark.value(), 112, "idle pace has passed this event's time");
        watermark.tick(30);
        assert_eq!(watermark.value(), 112, "idle begins anew behind a line");
        watermark.tick(1);
        assert_eq!(watermark.value(), 113);
    }

    #[test]
    fn value_and_silence_are_its_whole_state() {
        let mut whole = Watermark::new(SPEC);
        let mut restored = Watermark::new(SPEC);
        for step in 0..200_i64 {
            for watermark in [&mut whole, &mut restored] {
                match step % 7 {
                    0 => watermark.line(),
                    1 => {
                        watermark.line();
                        watermark.observe(step * 13 % 301, 1_000);
                    }
                    _ => watermark.tick((step * 5 % 23) as u32),
                }
            }
            assert_eq!((whole.value(), whole.silence_ms()), (restored.value(), restored.silence_ms()));
            restored = Watermark::restore(SPEC, restored.checkpoint(), restored.silence_ms());
        }
        assert!(whole.value() > 296);
    }
}
