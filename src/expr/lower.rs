//! sqlparser's tree to ours. What expressions do not have is named here, with its place.

use std::ops::Range;

use sqlparser::ast as sql;

use super::error::SyntaxError;
use super::literal;
use super::parse::too_deep;
use super::places::Places;
use super::tree::{Arithmetic, Comparison, Form, Junction, Like, Test, Tree};
use crate::event::{Field, Step, Value};
use crate::limits::EXPRESSION_DEPTH_MAX;

type Lowered<T> = Result<T, SyntaxError>;

/// Turns one text's tree.
pub(super) struct Lowering<'p> {
    pub(super) places: &'p Places<'p>,
}

impl<'p> Lowering<'p> {
    pub fn new(places: &'p Places<'p>) -> Self {
        Self { places }
    }

    /// A whole expression.
    pub fn expression(&self, expr: &sql::Expr) -> Lowered<Tree> {
        self.lower(expr, 1)
    }

    /// A part, at this depth of the tree.
    pub(super) fn lower(&self, expr: &sql::Expr, depth: usize) -> Lowered<Tree> {
        if depth > EXPRESSION_DEPTH_MAX {
            return Err(too_deep(&self.places.whole()));
        }
        use sql::Expr as E;
        match expr {
            E::Nested(of) => {
                let tree = self.lower(of, depth + 1)?;
                Ok(Tree { at: self.places.widen(&tree.at, 1, 1), ..tree })
            }
            E::Value(value) => {
                let at = self.places.token(value.span.start);
                Ok(self.tree(Form::Literal(literal::value(&value.value, false, &at)?), at))
            }
            E::Identifier(_) | E::CompoundIdentifier(_) | E::CompoundFieldAccess { .. } => self.name(expr),
            E::UnaryOp { op, expr } => self.unary(*op, expr, depth),
            E::BinaryOp { op: sql::BinaryOperator::And, .. } => self.logic(expr, Junction::And, depth),
            E::BinaryOp { op: sql::BinaryOperator::Or, .. } => self.logic(expr, Junction::Or, depth),
            E::BinaryOp { left, op, right } => self.binary(left, op, right, depth),
            E::IsNull(of) | E::IsUnknown(of) => self.is(Test::Null, false, of, depth),
            E::IsNotNull(of) | E::IsNotUnknown(of) => self.is(Test::Null, true, of, depth),
            E::IsTrue(of) => self.is(Test::True, false, of, depth),
            E::IsNotTrue(of) => self.is(Test::True, true, of, depth),
            E::IsFalse(of) => self.is(Test::False, false, of, depth),
            E::IsNotFalse(of) => self.is(Test::False, true, of, depth),
            E::IsDistinctFrom(left, right) => self.distinct(false, left, right, depth),
            E::IsNotDistinctFrom(left, right) => self.distinct(true, left, right, depth),
            E::InList { expr, list, negated } => self.in_list(*negated, expr, list, depth),
            E::Between { expr, negated, low, high } => {
                let parts =
                    Box::new([self.lower(expr, depth + 1)?, self.lower(low, depth + 1)?, self.lower(high, depth + 1)?]);
                let at = parts[0].at.start..parts[2].at.end;
                Ok(self.tree(Form::Between { negated: *negated, parts }, at))
            }
            E::Like { negated, any: false, expr, pattern, escape_char } => {
                self.like(*negated, false, [expr, pattern], escape_char.as_deref(), depth)
            }
            E::ILike { negated, any: false, expr, pattern, escape_char } => {
                self.like(*negated, true, [expr, pattern], escape_char.as_deref(), depth)
            }
            E::Case { case_token, end_token, operand, conditions, else_result } => {
                let at =
                    self.places.token(case_token.0.span.start).start..self.places.token(end_token.0.span.start).end;
                self.case(operand.as_deref(), conditions, else_result.as_deref(), at, depth)
            }
            _ => self.with_parentheses(expr, depth),
        }
    }

    /// A tree with the text that it was written as, on one line.
    pub(super) fn tree(&self, form: Form, at: Range<usize>) -> Tree {
        let text = self.places.text(&at);
        let sql = if text.contains('\n') {
            text.split_whitespace().collect::<Vec<_>>().join(" ").into()
        } else {
            text.into()
        };
        Tree { form, at, sql }
    }

    fn name(&self, expr: &sql::Expr) -> Lowered<Tree> {
        let mut at = None;
        let mut steps = Vec::new();
        self.path(expr, &mut steps, &mut at)?;
        let (Some(at), Some(field)) = (at, Field::new(steps)) else {
            return Err(self.unavailable(expr));
        };
        Ok(self.tree(Form::Name(field), at))
    }

    fn path(&self, expr: &sql::Expr, steps: &mut Vec<Step>, at: &mut Option<Range<usize>>) -> Lowered<()> {
        let idents = match expr {
            sql::Expr::Identifier(ident) => std::slice::from_ref(ident),
            sql::Expr::CompoundIdentifier(idents) => idents,
            sql::Expr::CompoundFieldAccess { root, access_chain } => {
                self.path(root, steps, at)?;
                return access_chain.iter().try_for_each(|access| self.access(access, steps, at));
            }
            _ => {
                let message = "a path goes into a field: `items[0].sku`; give a computed value a name with `set` first";
                return Err(SyntaxError::new(message, &self.place_of(expr)));
            }
        };
        for ident in idents {
            let place = self.places.token(ident.span.start);
            if !matches!(ident.quote_style, None | Some('"')) {
                return Err(SyntaxError::new("a name is quoted with double quotes", &place));
            }
            steps.push(Step::Key(ident.value.clone()));
            *at = Some(at.as_ref().map_or(place.start, |at| at.start)..place.end);
        }
        Ok(())
    }

    fn access(&self, access: &sql::AccessExpr, steps: &mut Vec<Step>, at: &mut Option<Range<usize>>) -> Lowered<()> {
        let index = match access {
            sql::AccessExpr::Dot(expr) => return self.path(expr, steps, at),
            sql::AccessExpr::Subscript(sql::Subscript::Index { index }) => index,
            sql::AccessExpr::Subscript(sql::Subscript::Slice { .. }) => {
                let message = "a part of an array cannot be cut out; an element is `items[0]`";
                return Err(SyntaxError::new(message, &at.clone().unwrap_or(self.places.whole())));
            }
        };
        let place = self.place_of(index);
        let number = match index {
            sql::Expr::Value(value) => literal::value(&value.value, false, &place)?,
            _ => Value::Null,
        };
        let Value::Int(number) = number else {
            return Err(SyntaxError::new("an element is given by a whole number from 0", &place));
        };
        // No sign stands in such a literal, and none is as large as an address.
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        steps.push(Step::Index(number));
        Ok(())
    }

    fn unary(&self, op: sql::UnaryOperator, of: &sql::Expr, depth: usize) -> Lowered<Tree> {
        if let (sql::UnaryOperator::Minus, sql::Expr::Value(value)) = (op, of) {
            // Here and not by negation, because the least whole number has no positive counterpart.
            let at = self.places.widen(&self.places.token(value.span.start), 1, 0);
            if let sql::Value::Number(..) = value.value {
                return Ok(self.tree(Form::Literal(literal::value(&value.value, true, &at)?), at));
            }
        }
        let tree = self.lower(of, depth + 1)?;
        let at = self.places.widen(&tree.at, 1, 0);
        match op {
            sql::UnaryOperator::Minus => Ok(self.tree(Form::Negate(Box::new(tree)), at)),
            sql::UnaryOperator::Plus => Ok(self.tree(tree.form, at)),
            sql::UnaryOperator::Not => Ok(self.tree(Form::Not(Box::new(tree)), at)),
            _ => Err(SyntaxError::new(format!("the operator `{op}` is not available"), &at)),
        }
    }

    /// A chain of one word, walked along its left edge, which may be long.
    fn logic(&self, expr: &sql::Expr, junction: Junction, depth: usize) -> Lowered<Tree> {
        let operator = match junction {
            Junction::And => sql::BinaryOperator::And,
            Junction::Or => sql::BinaryOperator::Or,
        };
        let mut parts = Vec::new();
        let mut first = expr;
        while let sql::Expr::BinaryOp { left, op, right } = first
            && *op == operator
        {
            parts.push(right.as_ref());
            first = left;
        }
        parts.push(first);
        let parts = parts.into_iter().rev().map(|part| self.lower(part, depth + 1)).collect::<Lowered<Vec<_>>>()?;
        let at = around(&parts);
        Ok(self.tree(Form::Logic(junction, parts), at))
    }

    fn binary(&self, left: &sql::Expr, op: &sql::BinaryOperator, right: &sql::Expr, depth: usize) -> Lowered<Tree> {
        use sql::BinaryOperator as B;
        if comparison(op).is_some()
            && let sql::Expr::BinaryOp { op: inner, .. } = left
            && comparison(inner).is_some()
        {
            let message = "comparisons cannot be chained; write `a < b AND b < c`";
            return Err(SyntaxError::new(message, &self.lower(left, depth + 1)?.at));
        }
        let sides = Box::new([self.lower(left, depth + 1)?, self.lower(right, depth + 1)?]);
        let at = around(sides.as_slice());
        let arithmetic = match op {
            B::Plus => Arithmetic::Add,
            B::Minus => Arithmetic::Subtract,
            B::Multiply => Arithmetic::Multiply,
            B::Divide => Arithmetic::Divide,
            B::Modulo => Arithmetic::Remainder,
            B::StringConcat => return Ok(self.join(*sides, at)),
            _ => {
                let Some(comparison) = comparison(op) else {
                    let at = sides[0].at.end..sides[1].at.start;
                    return Err(SyntaxError::new(format!("the operator `{op}` is not available"), &at));
                };
                return Ok(self.tree(Form::Compare(comparison, sides), at));
            }
        };
        Ok(self.tree(Form::Arithmetic(arithmetic, sides), at))
    }

    /// `a || b || c` is one step, so that its text is made once.
    fn join(&self, [left, right]: [Tree; 2], at: Range<usize>) -> Tree {
        let mut parts = match left.form {
            Form::Join(parts) => parts,
            _ => vec![left],
        };
        parts.push(right);
        self.tree(Form::Join(parts), at)
    }

    fn is(&self, test: Test, negated: bool, of: &sql::Expr, depth: usize) -> Lowered<Tree> {
        let of = Box::new(self.lower(of, depth + 1)?);
        let at = self.places.through(&of.at, &["null", "true", "false", "unknown"]);
        Ok(self.tree(Form::Is { negated, test, of }, at))
    }

    fn distinct(&self, negated: bool, left: &sql::Expr, right: &sql::Expr, depth: usize) -> Lowered<Tree> {
        let sides = Box::new([self.lower(left, depth + 1)?, self.lower(right, depth + 1)?]);
        let at = around(sides.as_slice());
        Ok(self.tree(Form::Distinct { negated, sides }, at))
    }

    fn in_list(&self, negated: bool, of: &sql::Expr, list: &[sql::Expr], depth: usize) -> Lowered<Tree> {
        let of = Box::new(self.lower(of, depth + 1)?);
        let list = list.iter().map(|part| self.lower(part, depth + 1)).collect::<Lowered<Vec<_>>>()?;
        let end = list.last().map_or(of.at.end, |last| last.at.end);
        let at = self.places.widen(&(of.at.start..end), 0, 1);
        Ok(self.tree(Form::In { negated, of, list }, at))
    }

    fn like(
        &self,
        negated: bool,
        any_case: bool,
        [text, pattern]: [&sql::Expr; 2],
        escape: Option<&sql::Expr>,
        depth: usize,
    ) -> Lowered<Tree> {
        let sides = Box::new([self.lower(text, depth + 1)?, self.lower(pattern, depth + 1)?]);
        let mut at = around(sides.as_slice());
        let escape = match escape {
            None => Some('\\'),
            Some(escape) => {
                let escape = self.lower(escape, depth + 1)?;
                at.end = escape.at.end;
                literal::escape(&escape)?
            }
        };
        Ok(self.tree(Form::Like(Like { negated, any_case, escape }, sides), at))
    }

    fn case(
        &self,
        operand: Option<&sql::Expr>,
        arms: &[sql::CaseWhen],
        otherwise: Option<&sql::Expr>,
        at: Range<usize>,
        depth: usize,
    ) -> Lowered<Tree> {
        let boxed = |part: Option<&sql::Expr>| part.map(|part| self.lower(part, depth + 1).map(Box::new)).transpose();
        let arm =
            |arm: &sql::CaseWhen| Ok([self.lower(&arm.condition, depth + 1)?, self.lower(&arm.result, depth + 1)?]);
        let operand = boxed(operand)?;
        let arms = arms.iter().map(arm).collect::<Lowered<Vec<_>>>()?;
        Ok(self.tree(Form::Case { operand, arms, otherwise: boxed(otherwise)? }, at))
    }

    /// Where something begins that is not lowered; the whole text, where that cannot be told. A loop, because this part
    /// was not measured, and the parser's own spans walk as deep as it is.
    pub(super) fn place_of(&self, expr: &sql::Expr) -> Range<usize> {
        use sql::Expr as E;
        let mut part = expr;
        loop {
            part = match part {
                E::Value(value) => return self.places.token(value.span.start),
                E::Identifier(name) => return self.places.token(name.span.start),
                E::CompoundIdentifier(names) if !names.is_empty() => return self.places.token(names[0].span.start),
                E::Function(sql::Function { name: sql::ObjectName(parts), .. }) => {
                    return parts
                        .first()
                        .and_then(sql::ObjectNamePart::as_ident)
                        .map_or(self.places.whole(), |name| self.places.token(name.span.start));
                }
                E::Subquery(_) | E::Exists { .. } | E::InSubquery { .. } => return self.places.word("select"),
                E::Nested(of) | E::IsNull(of) | E::IsNotNull(of) => of,
                E::BinaryOp { left: of, .. } | E::CompoundFieldAccess { root: of, .. } => of,
                E::AtTimeZone { timestamp: of, .. } | E::Collate { expr: of, .. } | E::UnaryOp { expr: of, .. } => of,
                E::RLike { expr: of, .. } | E::SimilarTo { expr: of, .. } => of,
                E::Interval(interval) => &interval.value,
                E::Tuple(list) | E::Array(sql::Array { elem: list, .. }) if !list.is_empty() => &list[0],
                _ => return self.places.whole(),
            }
        }
    }

    pub(super) fn unavailable(&self, expr: &sql::Expr) -> SyntaxError {
        let what = match expr {
            sql::Expr::Subquery(_) | sql::Expr::Exists { .. } | sql::Expr::InSubquery { .. } => "a subquery",
            sql::Expr::Interval(_) => "an interval",
            sql::Expr::Tuple(_) => "a list of values",
            sql::Expr::Array(_) => "an array",
            sql::Expr::AtTimeZone { .. } => "a time zone",
            sql::Expr::Collate { .. } => "a collation",
            sql::Expr::RLike { .. } | sql::Expr::SimilarTo { .. } => {
                return SyntaxError::new("patterns are LIKE, ILIKE and regexp_like()", &self.place_of(expr));
            }
            _ => "this part of SQL",
        };
        SyntaxError::new(format!("{what} is not available in an expression"), &self.place_of(expr))
    }
}

/// From the first to the last part.
fn around(parts: &[Tree]) -> Range<usize> {
    match parts {
        [first, .., last] => first.at.start..last.at.end,
        [only] => only.at.clone(),
        [] => 0..0,
    }
}

fn comparison(op: &sql::BinaryOperator) -> Option<Comparison> {
    Some(match op {
        sql::BinaryOperator::Eq => Comparison::Equal,
        sql::BinaryOperator::NotEq => Comparison::NotEqual,
        sql::BinaryOperator::Lt => Comparison::Less,
        sql::BinaryOperator::LtEq => Comparison::LessOrEqual,
        sql::BinaryOperator::Gt => Comparison::Greater,
        sql::BinaryOperator::GtEq => Comparison::GreaterOrEqual,
        _ => return None,
    })
}
