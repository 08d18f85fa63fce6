//! Durations and sizes as people write them.

use std::time::Duration;

/// Units of durations in ms, the longest first.
const DURATIONS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
/// Units of sizes in bytes, the largest first.
const SIZES: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// `250ms 5s 10m 24h 7d` to ms.
pub fn parse_duration(text: &str) -> Option<i64> {
    i64::try_from(parse(text, &DURATIONS)?).ok()
}

/// `64KiB 1GiB` to bytes; `B`, `MiB` and `TiB` are units, too.
pub fn parse_size(text: &str) -> Option<u64> {
    parse(text, &SIZES)
}

/// The shortest way to write a duration (ms), so that it parses back to the same. A negative one, which no config
/// holds, is written with its sign.
pub fn format_duration(ms: i64) -> String {
    let sign = if ms < 0 { "-" } else { "" };
    // "0d" would be as short, but nobody writes it.
    if ms == 0 { "0s".to_owned() } else { format!("{sign}{}", format(ms.unsigned_abs(), &DURATIONS)) }
}

/// The shortest way to write a size, so that it parses back to the same.
pub fn format_size(bytes: u64) -> String {
    if bytes == 0 { "0B".to_owned() } else { format(bytes, &SIZES) }
}

/// A size for reading, rounded.
pub fn show_bytes(bytes: u64) -> String {
    let (name, scale) = SIZES.iter().find(|(_, scale)| bytes >= *scale).unwrap_or(&("B", 1));
    let amount = bytes as f64 / *scale as f64;
    let digits = usize::from(*scale > 1 && amount < 10.0);
    format!("{amount:.digits$} {name}")
}

/// A duration for reading, in the two largest units that say something, rounded down.
pub fn show_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// A whole number and a unit, nothing before, between or behind.
fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, scale) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*scale)
}

/// In the largest unit that leaves no rest.
fn format(amount: u64, units: &[(&str, u64)]) -> String {
    let (name, scale) = units.iter().find(|(_, scale)| amount.is_multiple_of(*scale)).unwrap_or(&("", 1));
    format!("{}{name}", amount / scale)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn amounts_are_shown_rounded() {
        assert_eq!(
            [0, 1_023, 1_024, 10_240, 5_000_000_000].map(show_bytes).join(", "),
            "0 B, 1023 B, 1.0 KiB, 10 KiB, 4.7 GiB"
        );
        let shown =
            [0, 59, 60, 3_599, 3_600, 11_579, 90_000].map(|seconds| show_duration(Duration::from_secs(seconds)));
        assert_eq!(shown.join(", "), "0 s, 59 s, 1 min 0 s, 59 min 59 s, 1 h 0 min, 3 h 12 min, 1 d 1 h");
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        let read = ["250ms", "5s", "10m", "24h", "7d", "0s"].map(parse_duration);
        assert_eq!(read, [250, 5_000, 600_000, 86_400_000, 604_800_000, 0].map(Some));
        for wrong in ["", "5", "s", "-5s", "+5s", "5 s", " 5s", "5s ", "1.5s", "5S", "5m30s", "5us", "٥s", "1é"] {
            assert_eq!(parse_duration(wrong), None, "{wrong:?}");
        }
        assert_eq!(parse_duration("9223372036854775807ms"), Some(i64::MAX));
        assert_eq!(parse_duration("9223372036854775808ms"), None);
        assert_eq!(parse_duration("213503982335d"), None, "beyond 64 bits");
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let read = ["64KiB", "1GiB", "2MiB", "3TiB", "512B"].map(parse_size);
        assert_eq!(read, [65_536, 1 << 30, 2 << 20, 3 << 40, 512].map(Some));
        for wrong in ["", "64", "KiB", "64kb", "64KB", "64 KiB", "-1B", "1.5GiB", "16777216TiB"] {
            assert_eq!(parse_size(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn both_are_written_in_the_largest_unit_without_a_rest() {
        let durations = [250, 90_000, 60_000, 5_400_000, 86_400_000, 0, -5_000].map(format_duration);
        assert_eq!(durations, ["250ms", "90s", "1m", "90m", "1d", "0s", "-5s"]);
        let sizes = [0, 1_000, 1_536, 65_536, 3 << 30].map(format_size);
        assert_eq!(sizes, ["0B", "1000B", "1536B", "64KiB", "3GiB"]);
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_the_same(number in any::<u64>(), shift in 0_u32..64, zeros in 0_u64..1_000) {
            let size = (number >> shift).saturating_mul(1 << (zeros % 41));
            prop_assert_eq!(parse_size(&format_size(size)), Some(size));
            let ms = ((number >> shift) as i64 & i64::MAX).saturating_mul([1, 1_000, 60_000][(zeros % 3) as usize]);
            prop_assert_eq!(parse_duration(&format_duration(ms)), Some(ms));
        }
    }
}
