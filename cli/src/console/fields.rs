//! Fields of forms and of queries.

use std::time::Duration;

use axum::body::Body;
use http::StatusCode;
use http_body_util::BodyExt as _;
use tokio::time;
use zeroize::Zeroizing;

/// Maximum size of a form in bytes. A value of 64 KiB has three times that size when every byte is encoded as `%XX`.
const MAX_FORM: usize = 256 * 1024;
/// Number of bytes of a form that are read at most. A browser shows the answer to a form only when it could send the form to
/// its end.
const MAX_READ: usize = 16 * 1024 * 1024;

/// Longest time in which the whole of a form arrives. Shorter than the time that a request may take, so that the answer says that the
/// form was slow, and not a service.
const FORM_TIMEOUT: Duration = Duration::from_secs(60);

/// Reads the body of a form, or returns the status of the answer.
pub(super) async fn read_form(body: Body) -> Result<Zeroizing<Vec<u8>>, StatusCode> {
    time::timeout(FORM_TIMEOUT, read_whole_form(body))
        .await
        .unwrap_or(Err(StatusCode::REQUEST_TIMEOUT))
}

async fn read_whole_form(mut body: Body) -> Result<Zeroizing<Vec<u8>>, StatusCode> {
    // A buffer that grows would leave copies of a value behind.
    let mut form = Zeroizing::new(Vec::with_capacity(MAX_FORM));
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let data = frame.map_err(|_| StatusCode::BAD_REQUEST)?.into_data();
        let data = data.unwrap_or_default();
        length += data.len();
        if length > MAX_READ {
            break;
        }
        if length <= MAX_FORM {
            form.extend_from_slice(&data);
        }
    }
    match length {
        ..=MAX_FORM => Ok(form),
        _ => Err(StatusCode::PAYLOAD_TOO_LARGE),
    }
}

/// Reads a body that is not used, up to the same number of bytes.
pub(super) async fn discard(mut body: Body) {
    let mut length = 0;
    while let Some(Ok(frame)) = body.frame().await {
        length += frame.into_data().map_or(0, |data| data.len());
        if length > MAX_READ {
            return;
        }
    }
}

/// The fields of one form or query, in their order.
#[derive(Default)]
pub(super) struct Fields(Vec<(String, Zeroizing<String>)>);

impl Fields {
    /// Reads `application/x-www-form-urlencoded`. Bytes that are no UTF-8 become U+FFFD: browsers send UTF-8.
    pub(super) fn parse(encoded: &[u8]) -> Self {
        let fields = form_urlencoded::parse(encoded);
        Self(
            fields
                .map(|(name, value)| (name.into_owned(), Zeroizing::new(value.into_owned())))
                .collect(),
        )
    }

    /// Returns the fields of a form that was read in another way.
    pub(super) fn of(fields: Vec<(String, Zeroizing<String>)>) -> Self {
        Self(fields)
    }

    /// Returns a field without white space at its ends, or an empty text.
    pub(super) fn text(&self, name: &str) -> &str {
        let field = self.0.iter().find(|(given, _)| given == name);
        field.map_or("", |(_, value)| value.trim())
    }

    /// Returns true when the form has the field, even without content.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(given, _)| given == name)
    }

    /// Returns the number of fields whose name is this beginning, a number, and this end.
    pub(super) fn count_between(&self, beginning: &str, end: &str) -> usize {
        let is_counted = |name: &str| {
            let rest = name
                .strip_prefix(beginning)
                .and_then(|rest| rest.strip_suffix(end));
            rest.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
        };
        self.0.iter().filter(|(name, _)| is_counted(name)).count()
    }

    /// Returns a field as it was entered, or an empty text. Browsers send line breaks as CR LF.
    pub(super) fn raw(&self, name: &str) -> &str {
        let field = self.0.iter().find(|(given, _)| given == name);
        field.map_or("", |(_, value)| value.as_str())
    }

    /// Returns true for a checkbox that is checked.
    pub(super) fn is_set(&self, name: &str) -> bool {
        !self.text(name).is_empty()
    }

    /// Returns the number in a field, or 0.
    pub(super) fn number<T: std::str::FromStr + Default>(&self, name: &str) -> T {
        self.text(name).parse().unwrap_or_default()
    }

    /// Takes a field that holds the value of a secret out of the form, so that no page can show it.
    pub(super) fn take_value(&mut self, name: &str) -> Zeroizing<String> {
        match self.0.iter().position(|(given, _)| given == name) {
            Some(index) => self.0.swap_remove(index).1,
            None => Zeroizing::default(),
        }
    }
}

/// Returns the entries of a list, which are separated by line breaks or commas, without empty ones.
pub(super) fn items(text: &str) -> Vec<String> {
    not_empty(text.split(['\n', ',']))
}

/// Returns the lines of a text, without empty ones. Lines may contain commas, as a path of a URL may.
pub(super) fn lines(text: &str) -> Vec<String> {
    not_empty(text.split('\n'))
}

fn not_empty<'t>(parts: impl Iterator<Item = &'t str>) -> Vec<String> {
    let trimmed = parts.map(str::trim);
    trimmed
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Returns the value of a `<textarea>` as it was typed or pasted. Browsers send every line break as CR LF (HTML, "constructing
/// the entry list"), and most values that have several lines, such as PEM, have LF. One final line break is removed, as from a
/// file.
pub(super) fn without_form_line_breaks(value: &str) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(value.len()));
    let mut rest = value.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        if byte != b'\r' || tail.first() != Some(&b'\n') {
            bytes.push(byte);
        }
        rest = tail;
    }
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    bytes
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::io;

    use tokio_stream::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn a_form_that_is_too_long_is_refused() {
        let read = async |length: usize| {
            let form = read_form(Body::from(vec![b'x'; length])).await;
            form.map(|form| form.len())
        };
        assert_eq!(read(MAX_FORM).await, Ok(MAX_FORM));
        assert_eq!(read(MAX_FORM + 1).await, Err(StatusCode::PAYLOAD_TOO_LARGE));
    }

    #[tokio::test(start_paused = true)]
    async fn a_form_that_does_not_arrive_is_given_up() {
        let stalled = tokio_stream::pending::<Result<&[u8], io::Error>>();
        let beginning = tokio_stream::once(Ok(b"csrf=x".as_slice()));
        let started = time::Instant::now();
        let read = read_form(Body::from_stream(beginning.chain(stalled))).await;
        assert_eq!(read, Err(StatusCode::REQUEST_TIMEOUT));
        assert_eq!(started.elapsed().as_secs(), FORM_TIMEOUT.as_secs());
    }

    #[test]
    fn fields_are_decoded() {
        let fields =
            Fields::parse(b"a=1+2%26&b=&origins=https%3A%2F%2Fa%0D%0A%0D%0A+https%3A%2F%2Fb%2Cc&n=7&a=3");
        assert_eq!(fields.text("a"), "1 2&");
        assert_eq!(fields.text("missing"), "");
        assert!(fields.is_set("a") && !fields.is_set("b"));
        assert_eq!(fields.text("origins"), "https://a\r\n\r\n https://b,c");
        assert_eq!((fields.number("n"), fields.number("a")), (7_u64, 0_u32));
    }

    #[test]
    fn lists_have_an_entry_for_each_line_and_only_some_for_each_comma() {
        let text = " a,b\r\n\n c ,\n";
        assert_eq!(items(text), ["a", "b", "c"]);
        assert_eq!(lines(text), ["a,b", "c ,"]);
    }

    #[test]
    fn a_value_is_taken_out_of_the_form_with_its_white_space() {
        let mut fields = Fields::parse(b"value=+x%0D%0A&name=A");
        assert_eq!(fields.take_value("value").as_str(), " x\r\n");
        assert_eq!(fields.take_value("value").as_str(), "");
        assert_eq!(fields.text("name"), "A");
    }

    #[test]
    fn the_line_breaks_of_forms_become_those_of_files() {
        for (sent, value) in [
            ("a\r\nb\r\n", "a\nb"),
            ("a", "a"),
            ("a\r\n\r\n", "a\n"),
            ("a\rb", "a\rb"),
            ("a\n", "a"),
            ("\r\n", ""),
            (" a ", " a "),
        ] {
            assert_eq!(
                without_form_line_breaks(sent).as_slice(),
                value.as_bytes(),
                "{sent:?}"
            );
        }
    }
}
