//! LIKE: `%` is any text, `_` is any character.

/// A pattern, taken apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Pattern {
    signs: Box<[Sign]>,
    any_case: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sign {
    /// `%`
    Any,
    /// `_`
    One,
    Char(char),
}

impl Pattern {
    /// None where the sign that should escape something stands at the end.
    pub fn new(pattern: &str, any_case: bool, escape: Option<char>) -> Option<Self> {
        let mut signs = Vec::with_capacity(pattern.len());
        let mut chars = pattern.chars();
        while let Some(char) = chars.next() {
            let sign = match char {
                _ if Some(char) == escape => Sign::Char(fold(chars.next()?, any_case)),
                '%' => Sign::Any,
                '_' => Sign::One,
                _ => Sign::Char(fold(char, any_case)),
            };
            if sign != Sign::Any || signs.last() != Some(&Sign::Any) {
                signs.push(sign);
            }
        }
        Some(Self { signs: signs.into(), any_case })
    }

    /// Whether the whole text fits. Only the last `%` is ever tried again, so that the time is bounded by the product
    /// of the lengths.
    pub fn matches(&self, text: &str) -> bool {
        let mut rest = text.chars();
        let mut sign = 0;
        let mut again: Option<(usize, std::str::Chars<'_>)> = None;
        loop {
            if self.signs.get(sign) == Some(&Sign::Any) {
                sign += 1;
                if sign == self.signs.len() {
                    return true;
                }
                again = Some((sign, rest.clone()));
                continue;
            }
            let fits = match (rest.next(), self.signs.get(sign)) {
                (None, None) => return true,
                (None, Some(_)) => return false,
                (Some(char), Some(Sign::Char(wanted))) => fold(char, self.any_case) == *wanted,
                (Some(_), Some(_)) => true,
                (Some(_), None) => false,
            };
            if fits {
                sign += 1;
                continue;
            }
            // The last % takes one character more.
            let Some((behind, from)) = &mut again else { return false };
            from.next();
            sign = *behind;
            rest = from.clone();
        }
    }
}

/// One character as ILIKE compares it: in lower case, where that is one character, too.
fn fold(char: char, any_case: bool) -> char {
    if !any_case || char.is_ascii() {
        return if any_case { char.to_ascii_lowercase() } else { char };
    }
    let mut lower = char.to_lowercase();
    match (lower.next(), lower.next()) {
        (Some(lower), None) => lower,
        _ => char,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn like(text: &str, pattern: &str) -> bool {
        Pattern::new(pattern, false, Some('\\')).unwrap().matches(text)
    }

    #[test]
    fn percent_is_any_text_and_underscore_one_character() {
        let cases = [
            ("", "", true),
            ("", "%", true),
            ("", "_", false),
            ("a", "", false),
            ("/shop/item", "/shop/%", true),
            ("/shopx", "/shop/%", false),
            ("aXbXc", "a%X%c", true),
            ("aXbXc", "a%Y%c", false),
            ("aab", "%ab", true),
            ("abab", "%ab", true),
            ("aba", "%ab", false),
            ("é€x", "__x", true),
            ("é€x", "_x", false),
            ("50%", "50\\%", true),
            ("50x", "50\\%", false),
            ("a_c", "a\\_c", true),
            ("abc", "a\\_c", false),
            ("Abc", "abc", false),
            ("mississippi", "m%iss%ip%_", true),
            ("mississipp", "m%iss%ip%i", false),
        ];
        for (text, pattern, expected) in cases {
            assert_eq!(like(text, pattern), expected, "'{text}' LIKE '{pattern}'");
        }
    }

    #[test]
    fn case_is_folded_character_by_character() {
        let ilike = |text: &str, pattern: &str| Pattern::new(pattern, true, None).unwrap().matches(text);
        assert!(ilike("ÄRGER", "är%"));
        assert!(ilike("ärger", "Ä____"));
        assert!(!ilike("arger", "Ä%"));
        assert!(ilike("a\\B", "A\\b"));
    }

    #[test]
    fn an_escape_at_the_end_is_no_pattern() {
        assert_eq!(Pattern::new("50\\", false, Some('\\')), None);
        assert!(Pattern::new("50!%", false, Some('!')).unwrap().matches("50%"));
    }

    #[test]
    fn many_percents_take_no_time() {
        let pattern = "%a".repeat(200) + "b";
        assert!(!like(&"a".repeat(5_000), &pattern));
    }
}
