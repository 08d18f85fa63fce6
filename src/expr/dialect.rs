//! The SQL that sqlparser reads for us: PostgreSQL's names, quotes and precedences.

use sqlparser::ast as sql;
use sqlparser::dialect::{self, Precedence};
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Token, Word};

#[derive(Debug)]
pub(super) struct Dialect;

impl dialect::Dialect for Dialect {
    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        ch == '"'
    }

    fn is_identifier_start(&self, ch: char) -> bool {
        ch.is_alphabetic() || ch == '_'
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        ch.is_alphanumeric() || ch == '_' || ch == '$'
    }

    fn supports_filter_during_aggregation(&self) -> bool {
        true
    }

    /// Decides by the next sign what a word means. The parser would try one meaning after the other, which reads
    /// `interval IS NULL` as an interval, and takes twice as long with each level of `position(position(…`.
    fn parse_prefix(&self, parser: &mut Parser) -> Option<Result<sql::Expr, ParserError>> {
        let Token::Word(word) = &parser.peek_token_ref().token else { return None };
        let word = word.clone();
        let call = parser.peek_nth_token_ref(1).token == Token::LParen;
        let text = matches!(parser.peek_nth_token_ref(1).token, Token::SingleQuotedString(_));
        match word.keyword {
            Keyword::NULL | Keyword::TRUE | Keyword::FALSE => return None,
            Keyword::CURRENT_DATE | Keyword::CURRENT_TIME | Keyword::CURRENT_TIMESTAMP => return None,
            Keyword::TIMESTAMP | Keyword::TIMESTAMPTZ | Keyword::INTERVAL if text => return None,
            Keyword::EXISTS | Keyword::ARRAY if call => return None,
            keyword if is_between_operands(keyword) => {
                let message = "an expression (a field of this name is written in double quotes)";
                return Some(parser.expected_ref(message, parser.peek_token_ref()));
            }
            Keyword::SUBSTR | Keyword::SUBSTRING if call => return Some(parser.parse_substring()),
            _ => parser.advance_token(),
        }
        Some(match word.keyword {
            Keyword::CASE => parser.parse_case_expr(),
            Keyword::NOT => parser.parse_not(),
            Keyword::CAST if call => parser.parse_cast_expr(sql::CastKind::Cast),
            Keyword::TRY_CAST if call => parser.parse_cast_expr(sql::CastKind::TryCast),
            Keyword::SAFE_CAST if call => parser.parse_cast_expr(sql::CastKind::SafeCast),
            Keyword::EXTRACT if call => parser.parse_extract_expr(),
            Keyword::CEIL if call => parser.parse_ceil_floor_expr(true),
            Keyword::FLOOR if call => parser.parse_ceil_floor_expr(false),
            Keyword::TRIM if call => parser.parse_trim_expr(),
            _ => name(parser, word, call),
        })
    }

    /// `'a' || 1 + 2` is `'a' || (1 + 2)`.
    fn get_next_precedence(&self, parser: &Parser) -> Option<Result<u8, ParserError>> {
        (parser.peek_token_ref().token == Token::StringConcat).then(|| Ok(self.prec_value(Precedence::PgOther)))
    }

    fn prec_value(&self, precedence: Precedence) -> u8 {
        match precedence {
            Precedence::Period => 100,
            Precedence::DoubleColon => 50,
            Precedence::AtTz => 41,
            Precedence::MulDivModOp => 40,
            Precedence::PlusMinus => 30,
            Precedence::Xor => 26,
            Precedence::Ampersand => 25,
            Precedence::Caret => 24,
            Precedence::Pipe | Precedence::Colon | Precedence::PgOther => 23,
            Precedence::Between | Precedence::Like => 20,
            Precedence::Eq => 18,
            Precedence::Is => 17,
            Precedence::UnaryNot => 15,
            Precedence::And => 10,
            Precedence::Or => 5,
        }
    }
}

/// A field's name, or a function's where parentheses follow.
fn name(parser: &mut Parser, word: Word, call: bool) -> Result<sql::Expr, ParserError> {
    let ident = word.into_ident(parser.get_current_token().span);
    if call { parser.parse_function(sql::ObjectName::from(vec![ident])) } else { Ok(sql::Expr::Identifier(ident)) }
}

/// The words that stand only where an operand has ended: at its beginning they mean that it is missing.
fn is_between_operands(keyword: Keyword) -> bool {
    matches!(
        keyword,
        Keyword::AND
            | Keyword::OR
            | Keyword::IS
            | Keyword::IN
            | Keyword::LIKE
            | Keyword::ILIKE
            | Keyword::BETWEEN
            | Keyword::AS
            | Keyword::WHEN
            | Keyword::THEN
            | Keyword::ELSE
    )
}
