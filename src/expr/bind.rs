//! Names to slots, functions to what they do, patterns to what matches them; types are checked as far as they are
//! known.

use super::cast::cast;
use super::error::SyntaxError;
use super::like::Pattern;
use super::node::{Case, Kind, Logic, Node};
use super::tree::{Cast, Form, Like, Tree};
use super::types::{self, Typed};
use super::{Resolved, Scope, SqlType};
use crate::event::{Field, Value};

pub(super) type Bound<T> = Result<T, SyntaxError>;

/// Binds one expression. It is as deep as the tree, which was measured when it was read.
pub(super) struct Binder<'s> {
    pub(super) scope: &'s mut dyn Scope,
}

impl Binder<'_> {
    pub fn bind(&mut self, tree: &Tree) -> Bound<Typed> {
        let (kind, sql_type) = match &tree.form {
            Form::Literal(value) => (Kind::Literal(value.clone()), types::of_literal(value)),
            Form::Name(field) => self.name(tree, field)?,
            Form::Negate(of) => {
                let typed = self.operand(of)?;
                let sql_type = types::arithmetic(&[typed.sql_type]);
                (Kind::Negate(Box::new(typed.node)), Some(sql_type))
            }
            Form::Arithmetic(operation, sides) => self.arithmetic(*operation, &sides[0], &sides[1])?,
            Form::Join(parts) => (Kind::Join(nodes(self.all(parts)?)), Some(SqlType::Text)),
            Form::Case { operand, arms, otherwise } => self.case(operand.as_deref(), arms, otherwise.as_deref())?,
            Form::Cast(cast, of) => self.cast(*cast, of)?,
            Form::Call { name, name_at, arguments } => self.call(tree, name, name_at, arguments)?,
            _ => (Kind::Logic(self.logic(tree)?), Some(SqlType::Bool)),
        };
        Ok(Typed { node: Node { kind, sql: tree.sql.clone() }, sql_type })
    }

    /// What has to be true or false.
    pub fn condition(&mut self, tree: &Tree) -> Bound<Node> {
        let typed = self.bind(tree)?;
        types::check_condition(tree, typed.sql_type)?;
        Ok(typed.node)
    }

    pub(super) fn all(&mut self, trees: &[Tree]) -> Bound<Vec<Typed>> {
        trees.iter().map(|tree| self.bind(tree)).collect()
    }

    fn pair(&mut self, trees: &[Tree; 2]) -> Bound<Box<[Node; 2]>> {
        Ok(Box::new([self.bind(&trees[0])?.node, self.bind(&trees[1])?.node]))
    }

    fn name(&mut self, tree: &Tree, field: &Field) -> Bound<(Kind, Option<SqlType>)> {
        let resolved = self.scope.resolve(field).map_err(|nearest| SyntaxError {
            message: format!("unknown name {field}"),
            at: tree.at.clone(),
            nearest,
        })?;
        Ok(resolved_name(resolved))
    }

    /// `previous(x)`, where names have a value of the window before.
    pub(super) fn previous(&mut self, tree: &Tree, arguments: &[Tree]) -> Option<Bound<(Kind, Option<SqlType>)>> {
        let [Tree { form: Form::Name(field), .. }] = arguments else {
            // Whether there is such a function at all, any name tells.
            let exists = self.scope.previous(&Field::top("")).is_some();
            return exists.then(|| Err(SyntaxError::new("previous() takes the name of an aggregate", &tree.at)));
        };
        let resolved = self.scope.previous(field)?;
        Some(resolved.map(resolved_name).map_err(|why| SyntaxError::new(why, &tree.at)))
    }

    fn operand(&mut self, tree: &Tree) -> Bound<Typed> {
        let typed = self.bind(tree)?;
        types::check_operand(tree, typed.sql_type)?;
        Ok(typed)
    }

    pub(super) fn arithmetic(
        &mut self,
        operation: super::tree::Arithmetic,
        left: &Tree,
        right: &Tree,
    ) -> Bound<(Kind, Option<SqlType>)> {
        let (left, right) = (self.operand(left)?, self.operand(right)?);
        let sql_type = match operation {
            super::tree::Arithmetic::Divide => SqlType::Float,
            _ => types::arithmetic(&[left.sql_type, right.sql_type]),
        };
        Ok((Kind::Arithmetic(operation, Box::new([left.node, right.node])), Some(sql_type)))
    }

    fn case(
        &mut self,
        operand: Option<&Tree>,
        arms: &[[Tree; 2]],
        otherwise: Option<&Tree>,
    ) -> Bound<(Kind, Option<SqlType>)> {
        let operand = operand.map(|tree| self.bind(tree)).transpose()?;
        let mut results = Vec::with_capacity(arms.len() + 1);
        let mut bound = Vec::with_capacity(arms.len());
        for [when, then] in arms {
            let when = if operand.is_some() { self.bind(when)?.node } else { self.condition(when)? };
            let then = self.bind(then)?;
            results.push(then.sql_type);
            bound.push([when, then.node]);
        }
        let otherwise = otherwise.map(|tree| self.bind(tree)).transpose()?;
        results.extend(otherwise.as_ref().map(|otherwise| otherwise.sql_type));
        let case = Case {
            operand: operand.map(|operand| operand.node),
            arms: bound.into(),
            otherwise: otherwise.map(|otherwise| otherwise.node),
        };
        Ok((Kind::Case(Box::new(case)), types::unify(results)))
    }

    fn cast(&mut self, how: Cast, of: &Tree) -> Bound<(Kind, Option<SqlType>)> {
        let typed = self.bind(of)?;
        types::check_cast(of, typed.sql_type, how.target)?;
        let sql_type = Some(types::of_target(how.target));
        // A literal is cast once; one that fails is left to the events that come to it.
        if let Kind::Literal(value) = &typed.node.kind
            && let Ok(value) = cast(value.clone(), how.target)
        {
            return Ok((Kind::Literal(value), sql_type));
        }
        Ok((Kind::Cast(how, Box::new(typed.node)), sql_type))
    }

    /// The forms that give true, false or unknown.
    fn logic(&mut self, tree: &Tree) -> Bound<Logic> {
        Ok(match &tree.form {
            Form::Not(of) => Logic::Not(Box::new(self.condition(of)?)),
            Form::Logic(junction, parts) => {
                let parts = parts.iter().map(|part| self.condition(part)).collect::<Bound<Vec<_>>>()?;
                Logic::Junction(*junction, parts.into())
            }
            Form::Compare(comparison, sides) => {
                let typed = [self.bind(&sides[0])?, self.bind(&sides[1])?];
                if comparison.orders() {
                    types::check_order(tree, &typed)?;
                }
                Logic::Compare(*comparison, Box::new(typed.map(|side| side.node)))
            }
            Form::Distinct { negated, sides } => Logic::Distinct { negated: *negated, sides: self.pair(sides)? },
            Form::Is { negated, test, of } => {
                let null = *test == super::tree::Test::Null;
                let of = Box::new(if null { self.bind(of)?.node } else { self.condition(of)? });
                Logic::Is { negated: *negated, test: *test, of }
            }
            Form::In { negated, of, list } => {
                let of = Box::new(self.bind(of)?.node);
                Logic::In { negated: *negated, of, list: nodes(self.all(list)?) }
            }
            Form::Between { negated, parts } => {
                let typed = [self.bind(&parts[0])?, self.bind(&parts[1])?, self.bind(&parts[2])?];
                types::check_order(tree, &typed)?;
                Logic::Between { negated: *negated, parts: Box::new(typed.map(|part| part.node)) }
            }
            Form::Like(like, sides) => self.like(*like, sides)?,
            _ => return Err(SyntaxError::new("this is no condition", &tree.at)),
        })
    }

    fn like(&mut self, like: Like, sides: &[Tree; 2]) -> Bound<Logic> {
        let [text, pattern] = [self.bind(&sides[0])?, self.bind(&sides[1])?];
        for (tree, typed) in sides.iter().zip([&text, &pattern]) {
            types::check_argument(tree, super::functions::Takes::Text, typed.sql_type, "LIKE")?;
        }
        if let Kind::Literal(Value::Text(literal)) = &pattern.node.kind {
            let Some(pattern) = Pattern::new(literal, like.any_case, like.escape) else {
                return Err(SyntaxError::new("the pattern ends with the escape character", &sides[1].at));
            };
            return Ok(Logic::Like { negated: like.negated, text: Box::new(text.node), pattern });
        }
        Ok(Logic::LikeComputed { like, sides: Box::new([text.node, pattern.node]) })
    }
}

fn resolved_name(resolved: Resolved) -> (Kind, Option<SqlType>) {
    if resolved.rest.is_empty() {
        return (Kind::Slot(resolved.slot), Some(resolved.sql_type));
    }
    // What lies within a value is known event by event, whatever is known of the whole.
    (Kind::Path { slot: resolved.slot, rest: resolved.rest.into() }, Some(SqlType::Any))
}

pub(super) fn nodes(typed: Vec<Typed>) -> Box<[Node]> {
    typed.into_iter().map(|typed| typed.node).collect()
}
