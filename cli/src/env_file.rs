//! Files of `NAME=VALUE` lines, as `secret set --from-env-file` reads them.
//!
//! Programs disagree on such files, and a value that was read in another way than it was meant is found out at the first
//! call. So this module accepts only what all of them read in the same way, and refuses the rest with the line's number:
//!
//! - `NAME=VALUE`, with `export ` before it or not. Spaces around the name and around the value are dropped.
//! - `NAME='VALUE'`: everything up to the next `'`, as it is. It may have several lines.
//! - `NAME="VALUE"`: the same up to the next `"`, with the escapes `\n`, `\r`, `\t`, `\"`, `\$` and `\\`.
//! - Empty lines, and lines that begin with `#`.
//!
//! `$` has no meaning. A `#` at the beginning of a value without quotes, or after a space in it, is refused: it could
//! begin a comment.

use std::{iter::Peekable, str::Chars};

use proto::SecretName;
use zeroize::Zeroizing;

/// A secret of a file.
pub struct Entry {
    /// Its normalized name.
    pub name: SecretName,
    /// Its value; never empty.
    pub value: Zeroizing<String>,
}

/// Why a file was not read. Never repeats a part of the file, because any part may be a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {fault}")]
pub struct EnvFileError {
    line: usize,
    fault: Fault,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Fault {
    #[error("it is not NAME=VALUE; a value of several lines needs quotes around it")]
    NoEqualsSign,
    #[error("the name before `=` is not one of letters, digits, `_`, `-` and `.`")]
    Name,
    #[error("it sets a secret again that an earlier line sets")]
    Duplicate,
    #[error("there is no value behind `=`")]
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

/// Reads all secrets of a file, or none.
pub fn parse(text: &str) -> Result<Vec<Entry>, EnvFileError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader {
        rest: text.chars().peekable(),
        line: 1,
    };
    let mut entries: Vec<Entry> = Vec::new();
    while reader.rest.peek().is_some() {
        let line = reader.line;
        let read = reader
            .entry(&entries)
            .map_err(|fault| EnvFileError { line, fault })?;
        entries.extend(read);
    }
    Ok(entries)
}

struct Reader<'t> {
    rest: Peekable<Chars<'t>>,
    /// Number of the line that `rest` begins in.
    line: usize,
}

impl Reader<'_> {
    /// Reads one line, with all lines of its value; none when it is empty or a comment.
    fn entry(&mut self, before: &[Entry]) -> Result<Option<Entry>, Fault> {
        self.skip_blanks();
        if matches!(self.rest.peek(), None | Some('\n' | '#')) {
            self.line_end();
            return Ok(None);
        }
        let name = self.name()?;
        if before.iter().any(|entry| entry.name == name) {
            return Err(Fault::Duplicate);
        }
        self.skip_blanks();
        let value = match self.rest.peek() {
            Some(&quote @ ('\'' | '"')) => self.quoted(quote)?,
            _ => self.unquoted()?,
        };
        if value.is_empty() {
            return Err(Fault::Empty);
        }
        Ok(Some(Entry { name, value }))
    }

    fn name(&mut self) -> Result<SecretName, Fault> {
        let mut name = String::new();
        loop {
            match self.next() {
                Some('=') => break,
                None | Some('\n') => return Err(Fault::NoEqualsSign),
                Some(other) => name.push(other),
            }
        }
        let name = name.strip_prefix("export ").unwrap_or(&name).trim();
        let is_plain = |scalar: char| scalar.is_ascii_alphanumeric() || matches!(scalar, '_' | '-' | '.');
        match SecretName::parse(name) {
            Ok(parsed) if name.chars().all(is_plain) => Ok(parsed),
            Ok(_) | Err(_) => Err(Fault::Name),
        }
    }

    fn quoted(&mut self, quote: char) -> Result<Zeroizing<String>, Fault> {
        self.next();
        let mut value = Zeroizing::new(String::new());
        loop {
            match self.next().ok_or(Fault::Unclosed)? {
                end if end == quote => break,
                '\\' if quote == '"' => value.push(self.escaped()?),
                other => value.push(other),
            }
        }
        match self.line_end().trim() {
            "" => Ok(value),
            comment if comment.starts_with('#') => Ok(value),
            _ => Err(Fault::AfterQuote),
        }
    }

    fn escaped(&mut self) -> Result<char, Fault> {
        match self.next().ok_or(Fault::Unclosed)? {
            'n' => Ok('\n'),
            'r' => Ok('\r'),
            't' => Ok('\t'),
            same @ ('"' | '$' | '\\') => Ok(same),
            _ => Err(Fault::Escape),
        }
    }

    fn unquoted(&mut self) -> Result<Zeroizing<String>, Fault> {
        let line = self.line_end();
        let value = line.trim();
        // The last line of a base64 value that was wrapped without quotes: `cmV0IHZhbHVl==` is no name and value.
        if !value.is_empty() && value.bytes().all(|byte| byte == b'=') {
            return Err(Fault::NoEqualsSign);
        }
        if value.starts_with('#') || value.contains(" #") || value.contains("\t#") {
            return Err(Fault::Comment);
        }
        Ok(Zeroizing::new(value.to_owned()))
    }

    fn next(&mut self) -> Option<char> {
        let next = self.rest.next();
        self.line += usize::from(next == Some('\n'));
        next
    }

    fn skip_blanks(&mut self) {
        while self
            .rest
            .next_if(|&scalar| matches!(scalar, ' ' | '\t' | '\r'))
            .is_some()
        {}
    }

    /// Takes the rest of the line.
    fn line_end(&mut self) -> Zeroizing<String> {
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
            .map(|Entry { name, value }| (name.to_string(), value.to_string()));
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
    fn what_could_be_read_in_two_ways_is_refused_with_its_line_and_without_its_text() {
        for (text, line, fault) in [
            ("A=1\nhunter2\n", 2, Fault::NoEqualsSign),
            ("A=aHVu\ndGVyMg==", 2, Fault::NoEqualsSign),
            (
                "A=-----BEGIN-----\nhunter2\n-----END-----",
                2,
                Fault::NoEqualsSign,
            ),
            ("hunter2", 1, Fault::NoEqualsSign),
            ("hunter2 hunter2=1", 1, Fault::Name),
            ("hunter2+/=", 1, Fault::Name),
            ("=hunter2", 1, Fault::Name),
            ("A=", 1, Fault::Empty),
            ("A=''", 1, Fault::Empty),
            ("A=hunter2 # or not", 1, Fault::Comment),
            ("A= # hunter2", 1, Fault::Comment),
            ("a-b=hunter2\nA_B=hunter2", 2, Fault::Duplicate),
            ("\n\nA='hunter2\n", 3, Fault::Unclosed),
            ("A='hun'ter2", 1, Fault::AfterQuote),
            ("A='hun\n'ter2\nB=1", 1, Fault::AfterQuote),
            ("A=\"hunter\\2\"", 1, Fault::Escape),
        ] {
            let error = parse(text).err().unwrap();
            assert_eq!(error, EnvFileError { line, fault }, "{text}");
            assert!(!error.to_string().contains("hun"), "{error}");
        }
    }
}
