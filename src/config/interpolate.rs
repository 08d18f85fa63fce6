//! `${NAME}`, `${NAME:-default}` and `${NAME:?message}` inside string values.

use std::ops::Range;

/// Something wrong with a `${…}`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Fault {
    /// Where, as bytes of the string.
    pub(super) at: Range<usize>,
    /// What is wrong.
    pub(super) message: String,
    /// What to do.
    pub(super) help: String,
}

/// Replaces every `${…}`; other `$` stay. What a variable holds is not looked at again. As in a shell, a variable
/// that is empty counts as missing for `:-` and `:?`.
///
/// # Errors
/// All that is wrong with it.
pub(super) fn interpolate(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, Vec<Fault>> {
    let mut replaced = String::with_capacity(text.len());
    let mut faults = Vec::new();
    let mut from = 0;
    while let Some(found) = text[from..].find("${") {
        let start = from + found;
        replaced.push_str(&text[from..start]);
        let inner = start + 2;
        let Some(length) = text[inner..].find('}') else {
            let help = "write ${NAME}, ${NAME:-default} or ${NAME:?message}".to_owned();
            faults.push(Fault { at: start..text.len(), message: "a `${` without its `}`".to_owned(), help });
            from = text.len();
            break;
        };
        from = inner + length + 1;
        match variable(&text[inner..inner + length], env) {
            Ok(value) => replaced.push_str(&value),
            Err((message, help)) => faults.push(Fault { at: start..from, message, help }),
        }
    }
    replaced.push_str(&text[from..]);
    if faults.is_empty() { Ok(replaced) } else { Err(faults) }
}

/// What stands for the inside of one `${…}`; else what is wrong and what to do.
fn variable(inner: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, (String, String)> {
    let (name, otherwise) = match inner.split_once(':') {
        Some((name, otherwise)) => (name, Some(otherwise)),
        None => (inner, None),
    };
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !plain || name.is_empty() || name.as_bytes()[0].is_ascii_digit() {
        let message = format!("`{name}` is no name of an environment variable");
        return Err((message, "such a name has letters, digits and `_`".to_owned()));
    }
    let value = env(name);
    let filled = value.clone().filter(|value| !value.is_empty());
    match otherwise.map(|text| (text.chars().next(), text)) {
        None => value.ok_or_else(|| {
            let help = format!("set {name}, or give a default: ${{{name}:-default}}");
            (format!("the environment variable {name} is not set"), help)
        }),
        Some((Some('-'), text)) => Ok(filled.unwrap_or_else(|| text[1..].to_owned())),
        Some((Some('?'), text)) => filled.ok_or_else(|| {
            let said = if text.len() > 1 { &text[1..] } else { "it is not set" };
            (format!("{name}: {said}"), format!("set the environment variable {name}"))
        }),
        Some(_) => {
            let help = format!("write ${{{name}}}, ${{{name}:-default}} or ${{{name}:?message}}");
            Err((format!("`${{{inner}}}` is not understood"), help))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("mill".to_owned()),
            "EMPTY" => Some(String::new()),
            "NESTED" => Some("${HOST}".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_replaced_and_other_dollars_stay() {
        for (text, value) in [
            ("http://${HOST}:1/${HOST}", "http://mill:1/mill"),
            ("$HOST $ $$ }", "$HOST $ $$ }"),
            ("${NESTED}", "${HOST}"),
            ("${EMPTY}|", "|"),
            ("${NONE:-a:b}|${NONE:-}|${EMPTY:-x}|${HOST:-x}", "a:b||x|mill"),
            ("${HOST:?needed}", "mill"),
        ] {
            assert_eq!(interpolate(text, &env).as_deref(), Ok(value), "{text}");
        }
    }

    #[test]
    fn every_fault_is_found_with_its_place() {
        let faults = interpolate("é${NONE} ${NONE:?where is it} ${EMPTY:?} ${1} ${HOST:x} ${HO", &env).unwrap_err();
        let found: Vec<_> = faults.iter().map(|fault| (fault.at.clone(), fault.message.as_str())).collect();
        assert_eq!(
            found,
            [
                (2..9, "the environment variable NONE is not set"),
                (10..30, "NONE: where is it"),
                (31..41, "EMPTY: it is not set"),
                (42..46, "`1` is no name of an environment variable"),
                (47..56, "`${HOST:x}` is not understood"),
                (57..61, "a `${` without its `}`"),
            ]
        );
    }
}
