//! Manifests of Kubernetes Secrets: YAML with one or more documents, or one JSON document. Lists are read too.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use super::{
    file::{ImportEntry, ImportFile, ValueFault, bytes_of},
    format::Format,
    json,
    node::{Content, Node, SyntaxFault},
    yaml,
};

pub(super) fn read(text: &str) -> ImportFile {
    let mut file = ImportFile::of(Format::Kubernetes);
    let documents = match text.trim_start().starts_with('{') {
        true => json::node(text).map(|document| vec![document]),
        false => yaml::nodes(text),
    };
    match documents {
        Ok(documents) => documents
            .into_iter()
            .for_each(|document| file.read_document(document)),
        Err(SyntaxFault { line, message }) => file.fault(line, message),
    }
    file
}

impl ImportFile {
    /// Reads one document: a Secret, a list, or anything else, which is left out.
    fn read_document(&mut self, mut document: Node) {
        let line = document.line;
        // `---` at the end of a text begins one more document, which is empty.
        if matches!(document.content, Content::Null) {
            return;
        }
        // The library for YAML refuses such a document itself. Only one of the members would be read.
        if let Some(line) = document.repeated_member() {
            return self.fault(line, "a name occurs twice");
        }
        let Some(kind) = document.member("kind").and_then(Node::text).map(str::to_owned) else {
            return self.fault(line, "it has no `kind`");
        };
        if kind.ends_with("List")
            && let Some(Node {
                line: _,
                content: Content::List(items),
            }) = document.take("items")
        {
            return items.into_iter().for_each(|item| self.read_document(item));
        }
        if kind != "Secret" {
            let message = format!("Line {line}: this is no Secret, and is left out");
            return self.notes.push(message);
        }
        match document.member("apiVersion").and_then(Node::text) {
            Some("v1") => self.read_secret(document),
            Some(_) | None => self.fault(line, "the `apiVersion` of a Secret is v1"),
        }
    }

    /// Reads the values of a Secret. As in Kubernetes, `stringData` replaces what `data` has under the same name.
    fn read_secret(&mut self, mut secret: Node) {
        let texts = self.members(secret.take("stringData"), "stringData");
        let encoded = self.members(secret.take("data"), "data");
        for (name, node) in encoded {
            if let Some((_, text)) = texts.iter().find(|(other, _)| *other == name) {
                let (line, other) = (node.line, text.line);
                let message =
                    format!("Line {line}: `stringData` in line {other} replaces this value of `data`");
                self.notes.push(message);
                continue;
            }
            self.entries.push(entry(name, &node, decoded));
        }
        for (name, node) in texts {
            self.entries.push(entry(name, &node, |text| Ok(bytes_of(text))));
        }
    }

    fn members(&mut self, node: Option<Node>, field: &str) -> Vec<(String, Node)> {
        match node {
            Some(Node {
                line: _,
                content: Content::Map(members),
            }) => members,
            None
            | Some(Node {
                line: _,
                content: Content::Null,
            }) => Vec::new(),
            Some(Node { line, content: _ }) => {
                self.fault(
                    line,
                    format_args!("`{field}` must be an object of names and values"),
                );
                Vec::new()
            }
        }
    }
}

fn entry(
    given: String,
    node: &Node,
    read: impl FnOnce(&str) -> Result<Zeroizing<Vec<u8>>, ValueFault>,
) -> ImportEntry {
    let value = match &node.content {
        Content::Text(text) => read(text),
        // `name:` without a value is the empty text for Kubernetes too.
        Content::Null => Ok(Zeroizing::default()),
        Content::Map(_) | Content::List(_) => Err(ValueFault::Nested),
        Content::Other => Err(ValueFault::NotText),
    };
    ImportEntry {
        line: node.line,
        given,
        value,
        has_variable: false,
    }
}

/// Decodes a value of `data`. Like Kubernetes, ignores line breaks.
fn decoded(text: &str) -> Result<Zeroizing<Vec<u8>>, ValueFault> {
    let mut encoded = Zeroizing::new(Vec::with_capacity(text.len()));
    encoded.extend(text.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n')));
    // The decoder writes into a buffer of the final size, because a buffer that grows leaves copies behind.
    let mut value = Zeroizing::new(vec![0; encoded.len().div_ceil(4) * 3]);
    let size = STANDARD
        .decode_slice(&*encoded, &mut value)
        .map_err(|_| ValueFault::NotBase64)?;
    value.truncate(size);
    Ok(value)
}
