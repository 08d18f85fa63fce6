//! Functions: arguments are counted and checked, and what has to be a literal is made ready.

use std::ops::Range;

use regex::RegexBuilder;

use super::SqlType;
use super::bind::{Binder, Bound, nodes};
use super::error::{SyntaxError, nearest};
use super::functions::{self, Function, Part, Signature, TextFunction, Unit};
use super::node::{About, Kind, Logic};
use super::tree::{Form, Tree};
use super::types::{self, Typed};
use crate::event::Value;
use crate::limits::REGEX_BYTES_MAX;

impl Binder<'_> {
    pub(super) fn call(
        &mut self,
        tree: &Tree,
        name: &str,
        name_at: &Range<usize>,
        arguments: &[Tree],
    ) -> Bound<(Kind, Option<SqlType>)> {
        if name == "previous"
            && let Some(bound) = self.previous(tree, arguments)
        {
            return bound;
        }
        let Some(signature) = functions::find(name) else {
            let nearest = nearest(name, functions::names());
            return Err(SyntaxError { message: format!("unknown function {name}()"), at: name_at.clone(), nearest });
        };
        if !(signature.least..=signature.most).contains(&arguments.len()) {
            let message = format!("{} has {} arguments here", signature.usage, arguments.len());
            return Err(SyntaxError::new(message, &tree.at));
        }
        match signature.function {
            Function::Arithmetic(operation) => self.arithmetic(operation, &arguments[0], &arguments[1]),
            Function::RegexpLike => self.regexp_like(arguments),
            Function::NullIf => {
                let (left, right) = (self.bind(&arguments[0])?, self.bind(&arguments[1])?);
                Ok((Kind::NullIf(Box::new([left.node, right.node])), left.sql_type))
            }
            Function::DateTrunc => {
                let unit = word(&arguments[0], &Unit::NAMES)?;
                let time = self.checked(signature, arguments)?.swap_remove(1).node;
                Ok((Kind::Trunc(unit, Box::new(time)), Some(SqlType::Time)))
            }
            Function::Extract => {
                let part = word(&arguments[0], &Part::NAMES)?;
                let time = self.checked(signature, arguments)?.swap_remove(1).node;
                let sql_type = if part.is_float() { SqlType::Float } else { SqlType::Int };
                Ok((Kind::Extract(part, Box::new(time)), Some(sql_type)))
            }
            Function::About(about) => Ok((Kind::About(about), Some(type_of_about(about)))),
            Function::Text(function) => {
                let sql_type = if function == TextFunction::Length { SqlType::Int } else { SqlType::Text };
                Ok((Kind::Text(function, nodes(self.checked(signature, arguments)?)), Some(sql_type)))
            }
            Function::Math(function) => {
                let typed = self.checked(signature, arguments)?;
                let sql_type = types::arithmetic(&[typed[0].sql_type]);
                Ok((Kind::Math(function, nodes(typed)), Some(sql_type)))
            }
            Function::Concat => Ok((Kind::Concat(nodes(self.all(arguments)?)), Some(SqlType::Text))),
            Function::Coalesce => {
                let typed = self.all(arguments)?;
                let sql_type = types::unify(typed.iter().map(|typed| typed.sql_type));
                Ok((Kind::Coalesce(nodes(typed)), sql_type))
            }
            Function::Extreme(which) => {
                let typed = self.all(arguments)?;
                types::check_order(tree, &typed)?;
                let sql_type = types::unify(typed.iter().map(|typed| typed.sql_type));
                Ok((Kind::Extreme(which, nodes(typed)), sql_type))
            }
        }
    }

    /// The arguments, each of a type that can fit.
    fn checked(&mut self, signature: &Signature, arguments: &[Tree]) -> Bound<Vec<Typed>> {
        let typed = self.all(arguments)?;
        for (index, (tree, typed)) in arguments.iter().zip(&typed).enumerate() {
            let takes = signature.takes.get(index).or(signature.takes.last());
            if let Some(takes) = takes {
                types::check_argument(tree, *takes, typed.sql_type, signature.usage)?;
            }
        }
        Ok(typed)
    }

    fn regexp_like(&mut self, arguments: &[Tree]) -> Bound<(Kind, Option<SqlType>)> {
        let text = self.bind(&arguments[0])?;
        types::check_argument(&arguments[0], functions::Takes::Text, text.sql_type, "regexp_like()")?;
        let any_case = match arguments.get(2) {
            None => false,
            Some(flags) if literal(flags)? == "i" => true,
            Some(flags) => {
                return Err(SyntaxError::new("the only flag is 'i': upper and lower case are the same", &flags.at));
            }
        };
        let mut builder = RegexBuilder::new(literal(&arguments[1])?);
        builder.case_insensitive(any_case).size_limit(REGEX_BYTES_MAX).dfa_size_limit(REGEX_BYTES_MAX);
        let regex = builder.build().map_err(|error| {
            let message = match error {
                regex::Error::CompiledTooBig(limit) => format!("the pattern takes more than {limit} bytes"),
                other => format!("not a regular expression: {}", last_line(&other.to_string())),
            };
            SyntaxError::new(message, &arguments[1].at)
        })?;
        Ok((Kind::Logic(Logic::Regex { text: Box::new(text.node), regex }), Some(SqlType::Bool)))
    }
}

fn type_of_about(about: About) -> SqlType {
    match about {
        About::EventTime | About::IngestTime => SqlType::Time,
        About::Position => SqlType::Int,
        About::Producer => SqlType::Text,
    }
}

/// The text of an argument that is no expression.
fn literal(tree: &Tree) -> Bound<&str> {
    match &tree.form {
        Form::Literal(Value::Text(text)) => Ok(text),
        _ => Err(SyntaxError::new("this has to be a literal, 'like this'", &tree.at)),
    }
}

/// A word of a fixed list, in any case.
fn word<T: Copy>(tree: &Tree, known: &[(&'static str, T)]) -> Bound<T> {
    let word = literal(tree)?.to_ascii_lowercase();
    if let Some((_, found)) = known.iter().find(|(name, _)| *name == word) {
        return Ok(*found);
    }
    let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
    let message = format!("there is no '{word}' here; there are {}", names.join(", "));
    Err(SyntaxError { message, at: tree.at.clone(), nearest: nearest(&word, names) })
}

/// The regex crate draws the pattern first; the last line says what is wrong.
fn last_line(text: &str) -> &str {
    let line = text.lines().last().unwrap_or(text);
    line.strip_prefix("error: ").unwrap_or(line)
}
