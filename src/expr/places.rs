//! Where the tokens of an expression stand. The parser's own spans leave out parentheses, `CAST`, `IS NULL` and more,
//! and walking them is as deep as the tree; here a part's range grows token by token from its leaves.

use std::ops::Range;

use sqlparser::tokenizer::{Location, Token, TokenWithSpan};

/// The tokens of a text, in their order.
pub(super) struct Places<'t> {
    text: &'t str,
    tokens: Vec<(Location, Range<usize>)>,
}

impl<'t> Places<'t> {
    /// The places of all tokens that are neither blanks nor comments.
    pub fn new(text: &'t str, tokens: &[TokenWithSpan]) -> Self {
        let mut walk = Walk::new(text);
        let tokens = tokens
            .iter()
            .filter(|token| !matches!(token.token, Token::Whitespace(_) | Token::EOF))
            .map(|token| (token.span.start, walk.byte(token.span.start)..walk.byte(token.span.end)))
            .collect();
        Self { text, tokens }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// What stands in a range.
    pub fn text(&self, at: &Range<usize>) -> &'t str {
        &self.text[at.clone()]
    }

    /// The token that begins at a location; beyond the last, the end of the text.
    pub fn token(&self, location: Location) -> Range<usize> {
        let index = self.tokens.partition_point(|(start, _)| *start < location);
        self.tokens.get(index).map_or(self.end(), |(_, at)| at.clone())
    }

    /// Behind the last byte.
    pub fn end(&self) -> Range<usize> {
        self.text.len()..self.text.len()
    }

    /// The whole text, without blanks and comments around it.
    pub fn whole(&self) -> Range<usize> {
        match (self.tokens.first(), self.tokens.last()) {
            (Some((_, first)), Some((_, last))) => first.start..last.end,
            _ => 0..self.text.len(),
        }
    }

    /// With so many tokens more on its left and right.
    pub fn widen(&self, at: &Range<usize>, left: usize, right: usize) -> Range<usize> {
        let (first, last) = self.indexes(at);
        self.between(first.saturating_sub(left), last + right)
    }

    /// The first token that is this word; the whole text, where there is none.
    pub fn word(&self, word: &str) -> Range<usize> {
        let found = (0..self.len()).find(|index| self.at(*index).eq_ignore_ascii_case(word));
        found.map_or(self.whole(), |index| self.tokens[index].1.clone())
    }

    /// The token so many places behind the first of a range.
    pub fn nth(&self, at: &Range<usize>, count: usize) -> Range<usize> {
        let index = self.indexes(at).0 + count;
        self.tokens.get(index).map_or(self.end(), |(_, at)| at.clone())
    }

    /// On to the right, up to the first token that is one of these words.
    pub fn through(&self, at: &Range<usize>, words: &[&str]) -> Range<usize> {
        let (first, last) = self.indexes(at);
        let is_word = |index: &usize| words.iter().any(|word| word.eq_ignore_ascii_case(self.at(*index)));
        self.between(first, (last + 1..self.len()).find(is_word).unwrap_or(last))
    }

    /// A call: its parentheses, the word before them, and all between them.
    pub fn enclosing(&self, at: &Range<usize>) -> Range<usize> {
        let (first, last) = self.indexes(at);
        let mut open = 1;
        let start = (0..first).rev().find(|&index| {
            open += i32::from(self.at(index) == ")") - i32::from(self.at(index) == "(");
            open == 0
        });
        self.between(start.unwrap_or(first).saturating_sub(1), self.closing(last + 1))
    }

    /// From a function's name to the end of its parentheses.
    pub fn call(&self, name: &Range<usize>) -> Range<usize> {
        let (first, last) = self.indexes(name);
        if last + 1 < self.len() && self.at(last + 1) == "(" {
            return self.between(first, self.closing(last + 2));
        }
        name.clone()
    }

    /// The index of the parenthesis that closes what is open before `from`.
    fn closing(&self, from: usize) -> usize {
        let mut open = 1;
        let end = (from..self.len()).find(|&index| {
            open += i32::from(self.at(index) == "(") - i32::from(self.at(index) == ")");
            open == 0
        });
        end.unwrap_or(self.len())
    }

    fn at(&self, index: usize) -> &str {
        self.text(&self.tokens[index].1)
    }

    /// The first and last token of a range.
    fn indexes(&self, at: &Range<usize>) -> (usize, usize) {
        let first = self.tokens.partition_point(|(_, place)| place.start < at.start);
        let behind = self.tokens.partition_point(|(_, place)| place.start < at.end);
        (first, behind.saturating_sub(1).max(first))
    }

    /// From the first to the last token, as far as there are such.
    fn between(&self, first: usize, last: usize) -> Range<usize> {
        let end = self.tokens.get(last.min(self.len().saturating_sub(1)));
        match (self.tokens.get(first), end) {
            (Some((_, first)), Some((_, last))) => first.start..last.end,
            _ => self.end(),
        }
    }
}

/// The byte at a location.
pub(super) fn byte(text: &str, location: Location) -> usize {
    Walk::new(text).byte(location)
}

/// Turns lines and columns (counted in characters, from 1) to bytes, as long as they grow.
struct Walk<'t> {
    chars: std::str::CharIndices<'t>,
    length: usize,
    location: Location,
    byte: usize,
}

impl<'t> Walk<'t> {
    fn new(text: &'t str) -> Self {
        Self { chars: text.char_indices(), length: text.len(), location: Location { line: 1, column: 1 }, byte: 0 }
    }

    fn byte(&mut self, location: Location) -> usize {
        while self.location < location {
            let Some((_, char)) = self.chars.next() else { break };
            if char == '\n' {
                self.location = Location { line: self.location.line + 1, column: 1 };
            } else {
                self.location.column += 1;
            }
            self.byte = self.length - self.chars.as_str().len();
        }
        self.byte
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(text: &str) -> Places<'_> {
        let mut tokens = sqlparser::tokenizer::Tokenizer::new(&crate::expr::dialect::Dialect, text);
        Places::new(text, &tokens.tokenize_with_location().unwrap())
    }

    #[test]
    fn bytes_are_counted_over_lines_and_wide_characters() {
        let text = "'é\n€' =\r\n  äö -- ∑\n + lower(x)";
        let places = places(text);
        let texts: Vec<&str> = (0..places.len()).map(|index| places.at(index)).collect();
        assert_eq!(texts, ["'é\n€'", "=", "äö", "+", "lower", "(", "x", ")"]);
        assert_eq!(places.text(&places.whole()), text);
    }

    #[test]
    fn ranges_grow_by_tokens() {
        let text = "1 + round(CAST((x) AS text), 2) IS NOT NULL AND y";
        let places = places(text);
        let find = |part: &str| text.find(part).map(|start| start..start + part.len()).unwrap();
        let x = places.widen(&find("x"), 1, 1);
        assert_eq!(places.text(&x), "(x)");
        assert_eq!(places.text(&places.enclosing(&x)), "CAST((x) AS text)");
        assert_eq!(places.text(&places.call(&find("round"))), "round(CAST((x) AS text), 2)");
        let test = places.through(&places.call(&find("round")), &["null"]);
        assert_eq!(places.text(&test), "round(CAST((x) AS text), 2) IS NOT NULL");
        assert_eq!(places.text(&places.widen(&find("y"), 0, 5)), "y");
    }
}
