#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use super::{file::ValueFault, *};

/// Returns the entries of a text as line, name, and value or fault.
fn entries(text: &str) -> Vec<(usize, String, Result<String, ValueFault>)> {
    let file = parse(text, None).unwrap();
    assert_eq!(file.faults, [], "{text}");
    let entries = file.entries.into_iter();
    entries
        .map(
            |ImportEntry {
                 line, given, value, ..
             }| {
                let value = value.map(|value| String::from_utf8_lossy(&value).into_owned());
                (line, given, value)
            },
        )
        .collect()
}

fn ok(line: usize, name: &str, value: &str) -> (usize, String, Result<String, ValueFault>) {
    (line, name.to_owned(), Ok(value.to_owned()))
}

fn faults(text: &str) -> Vec<(usize, String)> {
    let file = parse(text, None).unwrap();
    let faults = file.faults.into_iter();
    faults.map(|fault| (fault.line, fault.message)).collect()
}

#[test]
fn each_format_gives_names_values_and_lines() {
    let dotenv = "# x\nA=1\nb-c='two\nlines'\nEMPTY=''\n";
    assert_eq!(
        entries(dotenv),
        [ok(2, "A", "1"), ok(3, "b-c", "two\nlines"), ok(5, "EMPTY", "")]
    );
    let json = "{\n  \"A\": \"1\",\n  \"b c\": \"x\\ny\",\n  \"n\": 7,\n  \"o\": {\"x\": \"y\"}\n}\n";
    let not = |line, name: &str, fault| (line, name.to_owned(), Err(fault));
    assert_eq!(
        entries(json),
        [
            ok(2, "A", "1"),
            ok(3, "b c", "x\ny"),
            not(4, "n", ValueFault::NotText),
            not(5, "o", ValueFault::Nested)
        ]
    );
    let manifest = "apiVersion: v1\nkind: Secret\nmetadata:\n  name: app\ndata:\n  a: aHVudGVyMg==\n  b: '?'\n\
                    stringData:\n  c: |\n    two\n    lines\n  d: 7\n  e:\n";
    assert_eq!(
        entries(manifest),
        [
            ok(6, "a", "hunter2"),
            not(7, "b", ValueFault::NotBase64),
            ok(10, "c", "two\nlines\n"),
            not(12, "d", ValueFault::NotText),
            ok(13, "e", "")
        ]
    );
}

#[test]
fn an_entry_without_a_value_or_with_a_comment_does_not_refuse_the_others() {
    let key = "q".repeat(40);
    let text = format!("A=1\nEMPTY=\nB=2 # two\nKEY={key}\nALSO_EMPTY=\nPORT=80\nUNSET=\n");
    assert_eq!(
        entries(&text),
        [
            ok(1, "A", "1"),
            ok(2, "EMPTY", ""),
            (3, "B".to_owned(), Err(ValueFault::Comment)),
            ok(4, "KEY", &key),
            ok(5, "ALSO_EMPTY", ""),
            ok(6, "PORT", "80"),
            ok(7, "UNSET", ""),
        ]
    );
}

#[test]
fn several_documents_and_lists_are_read_and_other_kinds_are_named() {
    let text = "---\napiVersion: v1\nkind: Secret\nstringData: {a: '1'}\n---\napiVersion: v1\nkind: ConfigMap\ndata: {x: y}\n\
                ---\napiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Secret\n  data: {b: Mg==}\n- apiVersion: v1\n  \
                kind: Secret\n  stringData: {c: '3'}\n---\n";
    assert_eq!(
        entries(text),
        [ok(4, "a", "1"), ok(15, "b", "2"), ok(18, "c", "3")]
    );
    let notes = parse(text, None).unwrap().notes;
    assert_eq!(notes, ["Line 6: this is no Secret, and is left out"]);

    let json = "{\"apiVersion\": \"v1\", \"kind\": \"List\",\n\"items\": [{\"apiVersion\": \"v1\", \"kind\": \"Secret\",\n\
                \"data\": {\"a\": \"MQ==\"}}]}";
    assert_eq!(entries(json), [ok(3, "a", "1")]);
}

#[test]
fn the_texts_of_a_manifest_replace_the_data_of_the_same_name() {
    let text = "apiVersion: v1\nkind: Secret\ndata:\n  a: MQ==\nstringData:\n  a: '2'\n";
    assert_eq!(entries(text), [ok(6, "a", "2")]);
    let notes = parse(text, None).unwrap().notes;
    assert_eq!(
        notes,
        ["Line 4: `stringData` in line 6 replaces this value of `data`"]
    );
}

#[test]
fn a_name_that_occurs_twice_is_found_twice() {
    assert_eq!(
        entries("{\"A\": \"1\",\n\"A\": \"2\"}"),
        [ok(1, "A", "1"), ok(2, "A", "2")]
    );
    assert_eq!(entries("A=1\na=2\n"), [ok(1, "A", "1"), ok(2, "a", "2")]);
}

#[test]
fn an_ambiguous_or_unknown_format_is_refused() {
    for (text, error) in [
        ("", FormatError::Empty),
        ("\u{feff} \n", FormatError::Empty),
        ("[{\"A\": \"1\"}]", FormatError::List),
        ("hunter2", FormatError::Unknown),
        ("key: hunter2", FormatError::Unknown),
        ("A=1\nkind: Secret\n", FormatError::AmbiguousLines),
        (
            "{\"kind\": \"Secret\", \"data\": {\"a\": \"MQ==\"}}",
            FormatError::AmbiguousObject,
        ),
        (
            "{\"kind\": \"Secret\", \"apiVersion\": \"v1\"}",
            FormatError::AmbiguousObject,
        ),
        ("{}", FormatError::NoSecret(Format::Json)),
        (
            "apiVersion: v1\nkind: Secret\n",
            FormatError::NoSecret(Format::Kubernetes),
        ),
    ] {
        assert_eq!(parse(text, None).err(), Some(error), "{text}");
        assert!(!error.to_string().contains("hunter2"));
    }
    // A block of text inside of a manifest may have lines NAME=VALUE, and a file of a person who chose has one format.
    let manifest = "apiVersion: v1\nkind: Secret\nstringData:\n  env: |\n    A=1\n";
    assert_eq!(entries(manifest), [ok(5, "env", "A=1\n")]);
    let chosen = parse("A=1\nkind='\nkind: x'\n", Some(Format::Dotenv)).unwrap();
    assert_eq!(chosen.entries.len(), 2);
}

#[test]
fn a_fault_has_its_line_and_none_of_the_text() {
    for (text, lines) in [
        ("A=1\nhunter2\nB='hunter2\n", vec![2, 3]),
        // A base64 value that was wrapped, and that ends in one `=`.
        ("A=aHVudGVyMiBodW50ZXIyIGh1\nbnRlcjI=\nB=1\n", vec![2]),
        (
            "{\"apiVersion\": \"v1\", \"kind\": \"Secret\",\n\"data\": {\"a\": \"hunter2\"},\n\"data\": {\"b\": \"hunter2\"}}",
            vec![3],
        ),
        ("{\n\"A\": hunter2}", vec![2]),
        ("{\"A\": \"hunter2\"} hunter2", vec![1]),
        ("{\n\n\"A\": \"\\ud800hunter2\"}", vec![3]),
        ("kind: Secret\napiVersion: v1\ndata: [hunter2]\n", vec![3]),
        ("kind: Secret\napiVersion: hunter2\n", vec![1]),
        ("kind: Secret\nstringData: {a: hunter2}\n", vec![1]),
        ("kind: Secret\nstringData:\n  a: 'hunter2\n", vec![3]),
        ("kind: Secret\nstringData:\n  a: hunter2\n  a: hunter2\n", vec![4]),
        ("kind: Secret\nstringData:\n  a: &x hunter2\n  b: *x\n", vec![3]),
    ] {
        let found = faults(text);
        let found_lines: Vec<_> = found.iter().map(|(line, _)| *line).collect();
        assert_eq!(found_lines, lines, "{text}: {found:?}");
        assert!(
            found.iter().all(|(_, message)| !message.contains("hunter2")),
            "{found:?}"
        );
    }
}

#[test]
fn a_secret_with_a_member_named_items_is_read_as_a_secret() {
    let text = "apiVersion: v1\nkind: Secret\nitems: []\ndata: {a: MQ==}\n";
    assert_eq!(entries(text), [ok(4, "a", "1")]);
    let list =
        "apiVersion: v1\nkind: SecretList\nitems:\n- apiVersion: v1\n  kind: Secret\n  data: {a: MQ==}\n";
    assert_eq!(entries(list), [ok(6, "a", "1")]);
}

#[test]
fn a_document_that_is_nested_too_deeply_is_refused() {
    let (open, close) = ("[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(
        faults(&format!("{{\"a\": {open}{close}}}")),
        [(1, "it is nested too deeply".to_owned())]
    );
    let manifest = format!("apiVersion: v1\nkind: Secret\ndata: {open}{close}\n");
    assert_eq!(faults(&manifest).len(), 1);
}
