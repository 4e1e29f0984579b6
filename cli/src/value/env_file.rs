//! Files of `NAME=VALUE` lines, as `secret set --from-env-file` and the import read them.
//!
//! Programs read such files in different ways, and a value that was misread is noticed only at the first call. So this
//! module accepts only the syntax that all of them read alike, and refuses everything else with the number of the line:
//!
//! - `NAME=VALUE`, with an optional `export ` in front. Spaces around the name and around the value are removed.
//! - `NAME='VALUE'`: the value ends at the next `'`, and may have several lines.
//! - `NAME="VALUE"`: the value ends at the next `"`, may have several lines, and may contain the escapes `\n`, `\r`, `\t`, `\"`, `\$` and `\\`.
//! - Empty lines, and lines that begin with `#`.
//!
//! `$` is not expanded, and a reference to a variable, which other programs replace, is marked (`has_variable`). A `#` at the beginning of a value without quotes, or after a space in such a value, is marked, because
//! other programs read a comment there: `parse` refuses the value, and an import leaves it out.

use std::{iter::Peekable, str::Chars};

use proto::SecretName;
use zeroize::Zeroizing;

/// The remark on a value with a reference to a variable.
pub(crate) const VARIABLE_REMARK: &str =
    "`$` in the value is stored as it is, no variable is put in its place";

/// One secret of a file.
pub(crate) struct EnvFileEntry {
    /// Number of the line in which the entry begins.
    pub(crate) line: usize,
    /// The name as the file writes it: letters, digits, `_`, `-` and `.`.
    pub(crate) given: String,
    pub(crate) name: SecretName,
    pub(crate) value: Zeroizing<String>,
    /// True when the value has quotes around it.
    pub(crate) is_quoted: bool,
    /// True when a `#` in the value may begin a comment.
    pub(crate) may_have_comment: bool,
    /// True when the value has `$NAME` or `${`, which other programs replace by a variable. Not set for `'…'` and `\$`.
    pub(crate) has_variable: bool,
}

/// The reason for refusing a file. The message never quotes the file, because any part of the file may be a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {fault}")]
pub(crate) struct EnvFileError {
    pub(crate) line: usize,
    pub(crate) fault: EnvFileFault,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EnvFileFault {
    #[error("it is not NAME=VALUE; a value of several lines needs quotes around it")]
    NoEqualsSign,
    #[error("the name before `=` is not one of letters, digits, `_`, `-` and `.`")]
    Name,
    #[error("it sets a secret again that an earlier line sets")]
    Duplicate,
    #[error("there is no value after `=`")]
    Empty,
    #[error(
        "`#` may begin a comment or belong to the value: put quotes around the value, or remove the comment"
    )]
    Comment,
    #[error("the quote that begins here is not closed")]
    Unclosed,
    #[error("something follows the closing quote")]
    AfterQuote,
    #[error("a backslash between double quotes is followed by something else than n, r, t, \", $ or \\")]
    Escape,
}

/// Returns the secrets of a file in their order. Refuses a file that has any fault: an invalid line, an empty value, or two
/// lines for one secret.
pub(crate) fn parse(text: &str) -> Result<Vec<EnvFileEntry>, EnvFileError> {
    let mut entries: Vec<EnvFileEntry> = Vec::new();
    for entry in read(text) {
        let entry = entry?;
        let refused = |fault| {
            let line = entry.line;
            EnvFileError { line, fault }
        };
        if entries.iter().any(|before| before.name == entry.name) {
            return Err(refused(EnvFileFault::Duplicate));
        }
        if entry.may_have_comment {
            return Err(refused(EnvFileFault::Comment));
        }
        if entry.value.is_empty() {
            return Err(refused(EnvFileFault::Empty));
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// Returns every entry of a file, and every line that is no entry. A line after an invalid one may belong to a value that was
/// not read to its end, so the caller must use no entry of a file that has an invalid line.
pub(crate) fn read(text: &str) -> impl Iterator<Item = Result<EnvFileEntry, EnvFileError>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader {
        rest: text.chars().peekable(),
        line: 1,
        is_line_start: true,
        has_variable: false,
    };
    std::iter::from_fn(move || reader.next_entry())
}

/// Returns true when other programs read a comment in a value without quotes.
fn has_comment(value: &str) -> bool {
    value.starts_with('#') || value.contains(" #") || value.contains("\t#")
}

/// Returns true for a character that makes a `$` before it a reference to a variable.
fn begins_variable(scalar: &char) -> bool {
    scalar.is_ascii_alphabetic() || matches!(scalar, '_' | '{')
}

struct Reader<'t> {
    rest: Peekable<Chars<'t>>,
    /// Number of the line in which `rest` begins.
    line: usize,
    is_line_start: bool,
    /// True when the value that was read last refers to a variable.
    has_variable: bool,
}

impl Reader<'_> {
    /// Returns the next entry or invalid line, and `None` at the end of the text.
    fn next_entry(&mut self) -> Option<Result<EnvFileEntry, EnvFileError>> {
        while self.rest.peek().is_some() {
            let line = self.line;
            match self.entry(line) {
                Ok(None) => {}
                Ok(Some(entry)) => return Some(Ok(entry)),
                Err(fault) => {
                    if !self.is_line_start {
                        self.rest_of_line();
                    }
                    return Some(Err(EnvFileError { line, fault }));
                }
            }
        }
        None
    }

    /// Reads one line, or several when the value is quoted. Returns `None` for an empty line or a comment.
    fn entry(&mut self, line: usize) -> Result<Option<EnvFileEntry>, EnvFileFault> {
        self.skip_blanks();
        if matches!(self.rest.peek(), None | Some('\n' | '#')) {
            self.rest_of_line();
            return Ok(None);
        }
        let (given, name) = self.name()?;
        self.skip_blanks();
        self.has_variable = false;
        let quote = self.rest.next_if(|scalar| matches!(scalar, '\'' | '"'));
        let value = match quote {
            Some(quote) => self.quoted(quote)?,
            None => self.unquoted()?,
        };
        let may_have_comment = quote.is_none() && has_comment(&value);
        Ok(Some(EnvFileEntry {
            line,
            given,
            name,
            value,
            is_quoted: quote.is_some(),
            may_have_comment,
            has_variable: self.has_variable,
        }))
    }

    fn name(&mut self) -> Result<(String, SecretName), EnvFileFault> {
        let mut name = String::new();
        loop {
            match self.next() {
                Some('=') => break,
                None | Some('\n') => return Err(EnvFileFault::NoEqualsSign),
                Some(other) => name.push(other),
            }
        }
        let name = name.strip_prefix("export ").unwrap_or(&name).trim();
        let is_plain = |scalar: char| scalar.is_ascii_alphanumeric() || matches!(scalar, '_' | '-' | '.');
        match SecretName::parse(name) {
            Ok(parsed) if name.chars().all(is_plain) => Ok((name.to_owned(), parsed)),
            Ok(_) | Err(_) => Err(EnvFileFault::Name),
        }
    }

    fn quoted(&mut self, quote: char) -> Result<Zeroizing<String>, EnvFileFault> {
        self.is_line_start = false;
        let mut value = Zeroizing::new(String::new());
        loop {
            match self.next().ok_or(EnvFileFault::Unclosed)? {
                end if end == quote => break,
                '\\' if quote == '"' => value.push(self.escaped()?),
                other => {
                    let begins = other == '$' && self.rest.peek().is_some_and(begins_variable);
                    self.has_variable |= quote == '"' && begins;
                    value.push(other);
                }
            }
        }
        match self.rest_of_line().trim() {
            "" => Ok(value),
            comment if comment.starts_with('#') => Ok(value),
            _ => Err(EnvFileFault::AfterQuote),
        }
    }

    fn escaped(&mut self) -> Result<char, EnvFileFault> {
        match self.next().ok_or(EnvFileFault::Unclosed)? {
            'n' => Ok('\n'),
            'r' => Ok('\r'),
            't' => Ok('\t'),
            escaped @ ('"' | '$' | '\\') => Ok(escaped),
            _ => Err(EnvFileFault::Escape),
        }
    }

    fn unquoted(&mut self) -> Result<Zeroizing<String>, EnvFileFault> {
        let line = self.rest_of_line();
        let value = line.trim();
        // A base64 value that was wrapped without quotes ends with a line such as `cmV0IHZhbHVl==`, which is no name and
        // value.
        if !value.is_empty() && value.bytes().all(|byte| byte == b'=') {
            return Err(EnvFileFault::NoEqualsSign);
        }
        let mut after_dollars = value.split('$').skip(1).filter_map(|rest| rest.chars().next());
        self.has_variable = after_dollars.any(|scalar| begins_variable(&scalar));
        Ok(Zeroizing::new(value.to_owned()))
    }

    fn next(&mut self) -> Option<char> {
        let next = self.rest.next();
        self.is_line_start = next == Some('\n');
        self.line += usize::from(self.is_line_start);
        next
    }

    fn skip_blanks(&mut self) {
        while self
            .rest
            .next_if(|&scalar| matches!(scalar, ' ' | '\t' | '\r'))
            .is_some()
        {
            self.is_line_start = false;
        }
    }

    /// Reads and returns the rest of the line.
    fn rest_of_line(&mut self) -> Zeroizing<String> {
        let mut line = Zeroizing::new(String::new());
        while let Some(scalar) = self.next().filter(|&scalar| scalar != '\n') {
            line.push(scalar);
        }
        line
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, String)> {
        let entries = parse(text).unwrap();
        let pairs = entries
            .into_iter()
            .map(|entry| (entry.name.to_string(), entry.value.to_string()));
        pairs.collect()
    }

    #[test]
    fn each_line_is_a_secret() {
        let text = "\u{feff}# comment\r\n\r\nA=1\r\n export b-c = two words \nC=p=a$s{\"x\":1}#y\n\
                    D='it $HOME\\n \"is\"' # a comment\n";
        let pairs = [
            ("A", "1"),
            ("B_C", "two words"),
            ("C", "p=a$s{\"x\":1}#y"),
            ("D", "it $HOME\\n \"is\""),
        ];
        assert_eq!(
            read(text),
            pairs.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
        assert!(read("").is_empty());
    }

    #[test]
    fn a_value_in_quotes_may_have_several_lines() {
        let pem = "-----BEGIN-----\nMC4=\n-----END-----\n";
        assert_eq!(read(&format!("K='{pem}'\nL=1"))[0].1, pem);
        let escaped = pem.replace('\n', "\\n");
        assert_eq!(
            read(&format!("K=\"{escaped}\"")),
            [("K".to_owned(), pem.to_owned())]
        );
        assert_eq!(read(r#"K="\"\\\$\t""#)[0].1, "\"\\$\t");
    }

    #[test]
    fn a_reference_to_a_variable_is_marked_and_kept_as_it_is() {
        for (text, has_variable) in [
            ("A=${B}", true),
            ("A=x-$B", true),
            ("A=\"x ${B}\"", true),
            ("A='${B}'", false),
            (r#"A="\${B}""#, false),
            ("A=cost$5$", false),
            ("A=\"$\"", false),
        ] {
            let entries = parse(text).unwrap();
            assert_eq!(entries[0].has_variable, has_variable, "{text}");
        }
        assert_eq!(read("A=${B}"), [("A".to_owned(), "${B}".to_owned())]);
    }

    #[test]
    fn an_ambiguous_line_is_refused_with_its_number_and_without_its_text() {
        for (text, line, fault) in [
            ("A=1\nhunter2\n", 2, EnvFileFault::NoEqualsSign),
            ("A=aHVu\ndGVyMg==", 2, EnvFileFault::NoEqualsSign),
            (
                "A=-----BEGIN-----\nhunter2\n-----END-----",
                2,
                EnvFileFault::NoEqualsSign,
            ),
            ("hunter2", 1, EnvFileFault::NoEqualsSign),
            ("hunter2 hunter2=1", 1, EnvFileFault::Name),
            ("hunter2+/=", 1, EnvFileFault::Name),
            ("=hunter2", 1, EnvFileFault::Name),
            ("A=", 1, EnvFileFault::Empty),
            ("A=''", 1, EnvFileFault::Empty),
            ("A=hunter2 # or not", 1, EnvFileFault::Comment),
            ("A= # hunter2", 1, EnvFileFault::Comment),
            ("a-b=hunter2\nA_B=hunter2", 2, EnvFileFault::Duplicate),
            ("\n\nA='hunter2\n", 3, EnvFileFault::Unclosed),
            ("A='hun'ter2", 1, EnvFileFault::AfterQuote),
            ("A='hun\n'ter2\nB=1", 1, EnvFileFault::AfterQuote),
            ("A=\"hunter\\2\"", 1, EnvFileFault::Escape),
        ] {
            let error = parse(text).err().unwrap();
            assert_eq!(error, EnvFileError { line, fault }, "{text}");
            assert!(!error.to_string().contains("hun"), "{error}");
        }
    }

    #[test]
    fn reading_goes_on_in_the_line_after_an_invalid_one() {
        let text = "A=1\nhunter2\nB=\"x\\q\"\n\nC='1\n2' x\nD=\nE=1 # x\n-A=2\nF='never closed\n";
        let found: Vec<_> = super::read(text)
            .map(|entry| match entry {
                Ok(entry) => (entry.line, Ok(entry.given)),
                Err(error) => (error.line, Err(error.fault)),
            })
            .collect();
        assert_eq!(
            found,
            [
                (1, Ok("A".to_owned())),
                (2, Err(EnvFileFault::NoEqualsSign)),
                (3, Err(EnvFileFault::Escape)),
                (5, Err(EnvFileFault::AfterQuote)),
                (7, Ok("D".to_owned())),
                (8, Ok("E".to_owned())),
                (9, Ok("-A".to_owned())),
                (10, Err(EnvFileFault::Unclosed)),
            ]
        );
    }
}
