//! Random expressions, evaluated a second time by a naive three-valued interpreter that shares nothing with the room.

use proptest::prelude::*;

use super::*;

/// An expression, as small as a test needs it.
#[derive(Clone, Debug)]
enum Naive {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(&'static str),
    Binary(&'static str, Box<Naive>, Box<Naive>),
    Not(Box<Naive>),
    Negate(Box<Naive>),
    Is(Box<Naive>, &'static str),
    In(Box<Naive>, Vec<Naive>, bool),
    Between(Box<Naive>, Box<Naive>, Box<Naive>),
    Case(Box<Naive>, Box<Naive>, Box<Naive>),
    Coalesce(Box<Naive>, Box<Naive>),
}

/// What it gives; `Err` is an error of any kind.
#[derive(Clone, PartialEq, Debug)]
enum Found {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(&'static str),
}

use Found as F;

impl Naive {
    /// As SQL; its values go into `row` and are named there, or stand in the text if there is no row.
    fn sql(&self, row: &mut Option<Leaves>) -> String {
        let leaf = match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(*value),
            Self::Int(value) => Value::Int(*value),
            Self::Float(value) => Value::Float(*value),
            Self::Text(text) => Value::text(text),
            _ => return self.sql_of_parts(row),
        };
        if let Some(Leaves(leaves)) = row {
            leaves.push(leaf);
            return format!("v{}", leaves.len() - 1);
        }
        show(&leaf)
    }

    fn sql_of_parts(&self, row: &mut Option<Leaves>) -> String {
        match self {
            Self::Binary(op, a, b) => format!("({} {op} {})", a.sql(row), b.sql(row)),
            Self::Not(a) => format!("(NOT {})", a.sql(row)),
            Self::Negate(a) => format!("(- {})", a.sql(row)),
            Self::Is(a, test) => format!("({} IS {test})", a.sql(row)),
            Self::In(a, list, negated) => {
                let a = a.sql(row);
                let list: Vec<String> = list.iter().map(|part| part.sql(row)).collect();
                format!("({a} {}IN ({}))", if *negated { "NOT " } else { "" }, list.join(", "))
            }
            Self::Between(a, low, high) => {
                format!("({} BETWEEN {} AND {})", a.sql(row), low.sql(row), high.sql(row))
            }
            Self::Case(when, then, other) => {
                format!("(CASE WHEN {} THEN {} ELSE {} END)", when.sql(row), then.sql(row), other.sql(row))
            }
            Self::Coalesce(a, b) => format!("coalesce({}, {})", a.sql(row), b.sql(row)),
            _ => unreachable!("leaves are above"),
        }
    }

    fn run(&self) -> Result<Found, ()> {
        Ok(match self {
            Self::Null => F::Null,
            Self::Bool(value) => F::Bool(*value),
            Self::Int(value) => F::Int(*value),
            Self::Float(value) => F::Float(*value),
            Self::Text(text) => F::Text(text),
            Self::Binary("AND", a, b) => junction(false, a, b)?,
            Self::Binary("OR", a, b) => junction(true, a, b)?,
            Self::Binary(op, a, b) => binary(op, &a.run()?, &b.run()?)?,
            Self::Not(a) => truth(a.run()?)?.map_or(F::Null, |truth| F::Bool(!truth)),
            Self::Negate(a) => match a.run()? {
                F::Null => F::Null,
                F::Int(value) => F::Int(value.checked_neg().ok_or(())?),
                F::Float(value) => F::Float(-value),
                _ => return Err(()),
            },
            Self::Is(a, "NULL") => F::Bool(a.run()? == F::Null),
            Self::Is(a, "NOT NULL") => F::Bool(a.run()? != F::Null),
            Self::Is(a, "TRUE") => F::Bool(truth(a.run()?)? == Some(true)),
            Self::Is(a, _) => F::Bool(truth(a.run()?)? != Some(false)),
            Self::In(a, list, negated) => {
                // By its definition: a = first OR a = second …
                let value = a.run()?;
                let mut found = F::Bool(false);
                for part in list {
                    match binary("=", &value, &part.run()?)? {
                        F::Bool(true) => return Ok(F::Bool(!negated)),
                        F::Null => found = F::Null,
                        _ => {}
                    }
                }
                if found == F::Null { F::Null } else { F::Bool(*negated) }
            }
            Self::Between(a, low, high) => {
                let (value, low, high) = (a.run()?, low.run()?, high.run()?);
                match (binary(">=", &value, &low)?, binary("<=", &value, &high)?) {
                    (F::Bool(false), _) | (_, F::Bool(false)) => F::Bool(false),
                    (F::Null, _) | (_, F::Null) => F::Null,
                    _ => F::Bool(true),
                }
            }
            Self::Case(when, then, other) => {
                if truth(when.run()?)? == Some(true) {
                    then.run()?
                } else {
                    other.run()?
                }
            }
            Self::Coalesce(a, b) => match a.run()? {
                F::Null => b.run()?,
                found => found,
            },
        })
    }
}

/// AND, which FALSE decides, or OR, which TRUE decides.
fn junction(decides: bool, a: &Naive, b: &Naive) -> Result<Found, ()> {
    let left = truth(a.run()?)?;
    if left == Some(decides) {
        return Ok(F::Bool(decides));
    }
    Ok(match (left, truth(b.run()?)?) {
        (_, Some(right)) if right == decides => F::Bool(decides),
        (Some(_), Some(_)) => F::Bool(!decides),
        _ => F::Null,
    })
}

fn truth(found: Found) -> Result<Option<bool>, ()> {
    match found {
        F::Null => Ok(None),
        F::Bool(value) => Ok(Some(value)),
        _ => Err(()),
    }
}

fn binary(op: &str, a: &Found, b: &Found) -> Result<Found, ()> {
    if matches!(op, "+" | "-" | "*" | "/" | "%") {
        return compute(op, a, b);
    }
    let order = match (a, b) {
        (F::Null, _) | (_, F::Null) => return Ok(F::Null),
        (F::Bool(a), F::Bool(b)) => Some(a.cmp(b)),
        (F::Text(a), F::Text(b)) => Some(a.cmp(b)),
        (F::Int(a), F::Int(b)) => Some(a.cmp(b)),
        (F::Float(a), F::Float(b)) => a.partial_cmp(b),
        (F::Int(a), F::Float(b)) => Some(exactly(*a, *b)),
        (F::Float(a), F::Int(b)) => Some(exactly(*b, *a).reverse()),
        _ => None,
    };
    Ok(F::Bool(match (op, order) {
        ("=", order) => order == Some(std::cmp::Ordering::Equal),
        ("<>", order) => order != Some(std::cmp::Ordering::Equal),
        ("<", Some(order)) => order.is_lt(),
        ("<=", Some(order)) => order.is_le(),
        (">", Some(order)) => order.is_gt(),
        (_, Some(order)) => order.is_ge(),
        (_, None) => return Err(()),
    }))
}

fn exactly(int: i64, float: f64) -> std::cmp::Ordering {
    let fraction = if float > float.floor() { std::cmp::Ordering::Less } else { std::cmp::Ordering::Equal };
    i128::from(int).cmp(&(float.floor() as i128)).then(fraction)
}

fn number(found: &Found) -> Option<f64> {
    match found {
        F::Int(value) => Some(*value as f64),
        F::Float(value) => Some(*value),
        _ => None,
    }
}

fn compute(op: &str, a: &Found, b: &Found) -> Result<Found, ()> {
    for side in [a, b] {
        // A NULL on the other side makes NULL of anything, but not of text.
        if number(side).is_none() && *side != F::Null {
            return Err(());
        }
    }
    let (Some(x), Some(y)) = (number(a), number(b)) else { return Ok(F::Null) };
    if matches!(op, "/" | "%") && y == 0.0 {
        return Ok(F::Null);
    }
    if let (F::Int(x), F::Int(y)) = (a, b)
        && op != "/"
    {
        let wide = match op {
            "+" => i128::from(*x) + i128::from(*y),
            "-" => i128::from(*x) - i128::from(*y),
            "*" => i128::from(*x) * i128::from(*y),
            _ => i128::from(*x) % i128::from(*y),
        };
        return i64::try_from(wide).map(F::Int).map_err(|_| ());
    }
    let float = match op {
        "+" => x + y,
        "-" => x - y,
        "*" => x * y,
        "/" => x / y,
        _ => x % y,
    };
    if float.is_finite() { Ok(F::Float(float)) } else { Err(()) }
}

/// The values of an expression, as the row that it is evaluated on: slot 3 is `v3`.
struct Leaves(Vec<Value<'static>>);

impl Scope for Leaves {
    fn resolve(&mut self, field: &Field) -> Result<Resolved, Option<String>> {
        let slot = field.root().strip_prefix('v').and_then(|slot| slot.parse().ok()).ok_or(None)?;
        Ok(Resolved { slot, rest: Vec::new(), sql_type: SqlType::Any })
    }
}

impl Row for Leaves {
    fn field(&self, slot: usize) -> Result<Value<'_>, Fault> {
        Ok(self.0[slot].clone())
    }

    fn event_time(&self) -> i64 {
        0
    }

    fn ingest_time(&self) -> i64 {
        0
    }

    fn position(&self) -> Position {
        0
    }

    fn producer(&self) -> Option<&str> {
        None
    }
}

fn naive() -> impl Strategy<Value = Naive> {
    let leaf = prop_oneof![
        2 => Just(Naive::Null),
        2 => any::<bool>().prop_map(Naive::Bool),
        4 => (-3_i64..4).prop_map(Naive::Int),
        1 => prop_oneof![Just(i64::MAX), Just(1 << 53)].prop_map(Naive::Int),
        2 => prop_oneof![Just(0.0), Just(0.5), Just(-1.5), Just(2.0), Just(1e308)].prop_map(Naive::Float),
        2 => prop_oneof![Just("a"), Just("b"), Just("1")].prop_map(Naive::Text),
    ];
    leaf.prop_recursive(5, 40, 3, |inner| {
        let boxed = inner.clone().prop_map(Box::new);
        let arithmetic = prop_oneof![Just("+"), Just("-"), Just("*"), Just("/"), Just("%")];
        let comparison = prop_oneof![Just("="), Just("<>"), Just("<"), Just("<="), Just(">"), Just(">=")];
        let logic = prop_oneof![Just("AND"), Just("OR")];
        let test = prop_oneof![Just("NULL"), Just("NOT NULL"), Just("TRUE"), Just("NOT FALSE")];
        prop_oneof![
            (arithmetic, boxed.clone(), boxed.clone()).prop_map(|(op, a, b)| Naive::Binary(op, a, b)),
            (comparison, boxed.clone(), boxed.clone()).prop_map(|(op, a, b)| Naive::Binary(op, a, b)),
            (logic, boxed.clone(), boxed.clone()).prop_map(|(op, a, b)| Naive::Binary(op, a, b)),
            boxed.clone().prop_map(Naive::Not),
            boxed.clone().prop_map(Naive::Negate),
            (boxed.clone(), test).prop_map(|(a, test)| Naive::Is(a, test)),
            (boxed.clone(), prop::collection::vec(inner, 1..4), any::<bool>())
                .prop_map(|(a, list, negated)| Naive::In(a, list, negated)),
            (boxed.clone(), boxed.clone(), boxed.clone()).prop_map(|(a, b, c)| Naive::Between(a, b, c)),
            (boxed.clone(), boxed.clone(), boxed.clone()).prop_map(|(a, b, c)| Naive::Case(a, b, c)),
            (boxed.clone(), boxed).prop_map(|(a, b)| Naive::Coalesce(a, b)),
        ]
    })
}

/// As `show`, but a zero has no sign.
fn show_found(found: &Found) -> String {
    match found {
        F::Null => "NULL".into(),
        F::Bool(value) => value.to_string(),
        F::Int(value) => value.to_string(),
        F::Float(value) => show(&Value::Float(value + 0.0)),
        F::Text(text) => format!("'{text}'"),
    }
}

/// Evaluates one text; none where it is refused before any event, as what can never be right may be.
fn found(text: &str, leaves: &mut Leaves) -> Option<Result<String, String>> {
    let expr = parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).bind(leaves).ok()?;
    Some(expr.eval(leaves).map(|value| show(&value)).map_err(|error| error.to_string()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn equal_to_a_naive_interpreter(naive in naive()) {
        let mut row = Some(Leaves(Vec::new()));
        let named = naive.sql(&mut row);
        let mut leaves = row.unwrap();
        for text in [named, naive.sql(&mut None)] {
            match (naive.run(), found(&text, &mut leaves)) {
                (_, None) | (Err(()), Some(Err(_))) => {}
                (Ok(expected), Some(Ok(found))) => prop_assert_eq!(show_found(&expected), found, "{}", text),
                (expected, found) => prop_assert!(false, "{}: expected {:?}, found {:?}", text, expected, found),
            }
        }
    }
}
