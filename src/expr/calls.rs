//! All that is written with parentheses: functions, CAST, and the words that SQL puts between some arguments.

use std::borrow::Cow;
use std::ops::Range;

use sqlparser::ast as sql;

use super::error::SyntaxError;
use super::functions::AGGREGATES;
use super::literal;
use super::lower::Lowering;
use super::tree::{Cast, Form, Tree};
use super::{AggregateText, Parsed};
use crate::event::Value;

type Lowered<T> = Result<T, SyntaxError>;

/// What stands between an aggregate's parentheses.
#[derive(Default)]
struct Arguments<'e> {
    distinct: bool,
    star: bool,
    list: Vec<&'e sql::Expr>,
}

impl Lowering<'_> {
    pub(super) fn with_parentheses(&self, expr: &sql::Expr, depth: usize) -> Lowered<Tree> {
        use sql::Expr as E;
        match expr {
            E::Function(call) => self.function(call, depth),
            E::Cast { kind, expr, data_type, format: None } => self.cast(kind, expr, data_type, depth),
            E::TypedString(typed) if matches!(typed.data_type, sql::DataType::Timestamp(..)) => {
                let at = self.places.token(typed.value.span.start);
                let target = literal::target(&typed.data_type, &at)?;
                let value = literal::value(&typed.value.value, false, &at)?;
                let of = Box::new(self.tree(Form::Literal(value), at.clone()));
                Ok(self.tree(Form::Cast(Cast { target, lenient: false }, of), self.places.widen(&at, 1, 0)))
            }
            E::Extract { field, expr, .. } => {
                let of = self.lower(expr, depth + 1)?;
                let at = self.places.enclosing(&of.at);
                let field = Value::Text(Cow::Owned(field.to_string().to_lowercase()));
                let field = self.tree(Form::Literal(field), self.places.nth(&at, 2));
                Ok(self.called("extract", at, vec![field, of]))
            }
            E::Ceil { expr, field: sql::CeilFloorKind::DateTimeField(sql::DateTimeField::NoDateTime) } => {
                self.around("ceil", &[expr], depth)
            }
            E::Floor { expr, field: sql::CeilFloorKind::DateTimeField(sql::DateTimeField::NoDateTime) } => {
                self.around("floor", &[expr], depth)
            }
            E::Ceil { expr, .. } | E::Floor { expr, .. } => {
                let at = self.places.enclosing(&self.lower(expr, depth + 1)?.at);
                Err(SyntaxError::new("ceil() and floor() take one number; round(x, n) takes digits", &at))
            }
            E::Substring { expr, substring_from, substring_for, .. } => {
                let one = sql::Expr::value(sql::Value::Number("1".to_owned(), false));
                let from = substring_from.as_deref().unwrap_or(&one);
                let arguments: Vec<&sql::Expr> =
                    [expr.as_ref(), from].into_iter().chain(substring_for.as_deref()).collect();
                self.around("substr", &arguments, depth)
            }
            E::Trim { expr, trim_where, trim_what, trim_characters: None } => {
                let name = match trim_where {
                    None | Some(sql::TrimWhereField::Both) => "trim",
                    Some(sql::TrimWhereField::Leading) => "ltrim",
                    Some(sql::TrimWhereField::Trailing) => "rtrim",
                };
                let arguments: Vec<&sql::Expr> = [expr.as_ref()].into_iter().chain(trim_what.as_deref()).collect();
                self.around(name, &arguments, depth)
            }
            _ => Err(self.unavailable(expr)),
        }
    }

    /// A call that the parser has a form of its own for; the first argument says where it stands.
    fn around(&self, name: &str, arguments: &[&sql::Expr], depth: usize) -> Lowered<Tree> {
        let arguments =
            arguments.iter().map(|argument| self.lower(argument, depth + 1)).collect::<Lowered<Vec<_>>>()?;
        let at = arguments.first().map_or(self.places.whole(), |first| self.places.enclosing(&first.at));
        Ok(self.called(name, at, arguments))
    }

    fn called(&self, name: &str, at: Range<usize>, arguments: Vec<Tree>) -> Tree {
        let name_at = self.places.nth(&at, 0);
        self.tree(Form::Call { name: name.to_owned(), name_at, arguments }, at)
    }

    fn cast(&self, kind: &sql::CastKind, of: &sql::Expr, data_type: &sql::DataType, depth: usize) -> Lowered<Tree> {
        let of = Box::new(self.lower(of, depth + 1)?);
        let at = match kind {
            sql::CastKind::Cast | sql::CastKind::TryCast => self.places.enclosing(&of.at),
            sql::CastKind::DoubleColon => {
                let words = if matches!(data_type, sql::DataType::DoublePrecision) { 3 } else { 2 };
                self.places.widen(&of.at, 0, words)
            }
            sql::CastKind::SafeCast => {
                let at = self.places.enclosing(&of.at);
                return Err(SyntaxError::new("SAFE_CAST is written TRY_CAST here", &at));
            }
        };
        let target = literal::target(data_type, &at)?;
        Ok(self.tree(Form::Cast(Cast { target, lenient: *kind == sql::CastKind::TryCast }, of), at))
    }

    fn function(&self, call: &sql::Function, depth: usize) -> Lowered<Tree> {
        let (name, name_at) = self.function_name(call)?;
        if AGGREGATES.contains(&name.as_str()) {
            let message = format!(
                "{name}() belongs under aggregates: give it a name of its own there; expressions use that name"
            );
            return Err(SyntaxError::new(message, &name_at));
        }
        if name.starts_with("current_") || name == "now" {
            let message = "expressions have no clock; event_time() and ingest_time() are the event's times";
            return Err(SyntaxError::new(message, &name_at));
        }
        let at = self.places.call(&name_at);
        let arguments = self.arguments(call, &at)?;
        if arguments.star || arguments.distinct || call.filter.is_some() {
            return Err(SyntaxError::new(format!("*, DISTINCT and FILTER are for aggregates, not {name}()"), &at));
        }
        let list = arguments.list.into_iter().map(|argument| self.lower(argument, depth + 1));
        let arguments = list.collect::<Lowered<Vec<_>>>()?;
        Ok(self.tree(Form::Call { name, name_at, arguments }, at))
    }

    /// The call that is an aggregate.
    pub(super) fn aggregate(&self, call: &sql::Function) -> Lowered<AggregateText> {
        let (function, function_at) = self.function_name(call)?;
        let arguments = self.arguments(call, &self.places.call(&function_at))?;
        let parsed = |expr: &sql::Expr| self.expression(expr).map(|tree| Parsed { tree });
        let filter = call.filter.as_deref().map(parsed).transpose()?;
        Ok(AggregateText::Call {
            function,
            function_at,
            distinct: arguments.distinct,
            star: arguments.star,
            arguments: arguments.list.into_iter().map(parsed).collect::<Lowered<Vec<_>>>()?,
            filter,
        })
    }

    fn function_name(&self, call: &sql::Function) -> Lowered<(String, Range<usize>)> {
        match call.name.0.as_slice() {
            [sql::ObjectNamePart::Identifier(name)] => {
                Ok((name.value.to_ascii_lowercase(), self.places.token(name.span.start)))
            }
            _ => Err(SyntaxError::new(format!("there is no function {}", call.name), &self.places.whole())),
        }
    }

    fn arguments<'e>(&self, call: &'e sql::Function, at: &Range<usize>) -> Lowered<Arguments<'e>> {
        let refuse = |what: &str| Err(SyntaxError::new(format!("{what} is not available in an expression"), at));
        if call.over.is_some() {
            return refuse("OVER");
        }
        if !call.within_group.is_empty() {
            return refuse("WITHIN GROUP");
        }
        if call.null_treatment.is_some() {
            return refuse("the treatment of NULLs");
        }
        let list = match &call.args {
            sql::FunctionArguments::List(list) if list.clauses.is_empty() => list,
            sql::FunctionArguments::None => return Ok(Arguments::default()),
            sql::FunctionArguments::List(_) => return refuse("a clause behind the arguments"),
            sql::FunctionArguments::Subquery(_) => return refuse("a subquery"),
        };
        let distinct = list.duplicate_treatment == Some(sql::DuplicateTreatment::Distinct);
        let mut arguments = Arguments { distinct, ..Arguments::default() };
        for argument in &list.args {
            match argument {
                sql::FunctionArg::Unnamed(sql::FunctionArgExpr::Expr(expr)) => arguments.list.push(expr),
                sql::FunctionArg::Unnamed(sql::FunctionArgExpr::Wildcard) if list.args.len() == 1 => {
                    arguments.star = true;
                }
                _ => return refuse("this kind of argument"),
            }
        }
        Ok(arguments)
    }
}
