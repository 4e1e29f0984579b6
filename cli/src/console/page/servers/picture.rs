//! A picture of the request that an upstream receives, with a blank for the value of each secret.

use maud::{Markup, html};
use proto::injector::v1::{
    BasicPlacement, CookiePlacement, FormPlacement, HeaderPlacement, Injection, JsonPlacement,
    ProtobufPlacement, QueryPlacement, Server, injection::Placement,
};

use super::{
    json_picture::JsonPicture,
    mark::Marks,
    place::injections_of,
    span::{Span, joined, spans},
    url::UrlParts,
};
use crate::template::{Piece, pieces, secrets_of};

/// Draws the request that `server` receives.
pub(super) fn picture(server: &Server, marks: &Marks) -> Markup {
    let lines = Sketch::of(server, marks).lines();
    html! {
        pre.request {
            @for line in &lines { span.line { (spans(line)) } "\n" }
        }
    }
}

/// The parts of a request, as the injections fill them.
struct Sketch<'s> {
    server: &'s Server,
    marks: &'s Marks,
    url: UrlParts<'s>,
    query: Vec<Vec<Span>>,
    headers: Vec<Vec<Span>>,
    cookies: Vec<Vec<Span>>,
    json: JsonPicture,
    form: Vec<Vec<Span>>,
    messages: Vec<Vec<Span>>,
}

impl<'s> Sketch<'s> {
    fn of(server: &'s Server, marks: &'s Marks) -> Self {
        let mut sketch = Self {
            server,
            marks,
            url: UrlParts::of(&server.url),
            query: Vec::new(),
            headers: Vec::new(),
            cookies: Vec::new(),
            json: JsonPicture::default(),
            form: Vec::new(),
            messages: Vec::new(),
        };
        for (index, injection) in injections_of(server).iter().enumerate() {
            sketch.place(index, injection);
        }
        sketch
    }

    fn place(&mut self, index: usize, injection: &Injection) {
        let fill = |template: &str| self.fill(index, template);
        let whole = |spans: Vec<Span>| self.whole(index, injection, spans);
        let named = |name: &str, between: &str, value: &str| {
            whole([vec![Span::text(format!("{name}{between}"))], fill(value)].concat())
        };
        match &injection.placement {
            // The URL has the variables of the path.
            None | Some(Placement::Path(_)) => {}
            Some(Placement::Header(HeaderPlacement { name, value })) => {
                let line = named(name, ": ", value);
                self.headers.push(line);
            }
            Some(Placement::Basic(BasicPlacement { username, password })) => {
                let credentials = [
                    vec![Span::text("authorization: Basic "), Span::quiet("base64( ")],
                    fill(username),
                    vec![Span::text(":")],
                    fill(password),
                    vec![Span::quiet(" )")],
                ];
                let line = whole(credentials.concat());
                self.headers.push(line);
            }
            Some(Placement::Query(QueryPlacement { name, value })) => {
                if !self.url.has_parameter(name) {
                    let parameter = named(name, "=", value);
                    self.query.push(parameter);
                }
            }
            Some(Placement::Cookie(CookiePlacement { name, value })) => {
                let cookie = named(name, "=", value);
                self.cookies.push(cookie);
            }
            Some(Placement::Json(JsonPlacement { pointer, value })) => {
                let value = whole(fill(value));
                self.json.put(pointer, value);
            }
            Some(Placement::Form(FormPlacement { field, value })) => {
                let field = named(field, "=", value);
                self.form.push(field);
            }
            Some(Placement::Protobuf(ProtobufPlacement { field, key, value })) => {
                let secrets = secrets_of(injection);
                let key = match (key.as_str(), secrets.first()) {
                    ("", Some(name)) => name,
                    (key, _) => key,
                };
                let before = Span::text(format!("field {field}: {{ \"{key}\": \""));
                let line = whole([vec![before], fill(value), vec![Span::text("\" }")]].concat());
                self.messages.push(line);
            }
        }
    }

    /// Fills a template with blanks.
    fn fill(&self, index: usize, template: &str) -> Vec<Span> {
        let span = |piece| match piece {
            Piece::Text(text) => Span::Text(text),
            Piece::Secret(name) => {
                let mark = self.marks.at(index, &name);
                Span::Secret(name, mark)
            }
        };
        pieces(template).into_iter().map(span).collect()
    }

    /// Marks the whole of an optional injection as left out while one of its secrets does not exist.
    fn whole(&self, index: usize, injection: &Injection, spans: Vec<Span>) -> Vec<Span> {
        let is_absent = |name: &String| self.marks.at(index, name).is_absent();
        match !injection.required && secrets_of(injection).iter().any(is_absent) {
            true => vec![Span::LeftOut(spans)],
            false => spans,
        }
    }

    /// Fills a part of the URL.
    fn fill_url(&self, part: &str) -> Vec<Span> {
        let span = |piece| match piece {
            Piece::Text(text) => Span::Text(text),
            Piece::Secret(name) => {
                let mark = self.marks.named(&name);
                Span::Secret(name, mark)
            }
        };
        pieces(part).into_iter().map(span).collect()
    }

    fn lines(self) -> Vec<Vec<Span>> {
        let mut lines = vec![self.request_line(), self.host()];
        let certificate = self
            .server
            .tls
            .as_ref()
            .map(|tls| tls.client_cert_secret.as_str());
        let Self {
            server: _,
            marks,
            url: _,
            query: _,
            headers,
            cookies,
            json,
            form,
            messages,
        } = self;
        if let Some(name) = certificate.filter(|name| !name.is_empty()) {
            let note = Span::quiet("(the connection presents the client certificate ");
            let secret = Span::Secret(name.to_owned(), marks.named(name));
            lines.insert(0, vec![note, secret, Span::quiet(")")]);
        }
        lines.extend(headers);
        if !cookies.is_empty() {
            let cookies = joined(cookies, "; ");
            lines.push(
                [
                    vec![Span::text("cookie: ")],
                    cookies,
                    vec![Span::quiet("; …the program's cookies")],
                ]
                .concat(),
            );
        }
        lines.push(vec![Span::quiet("…the program's headers")]);
        if !json.is_empty() {
            lines.push(vec![]);
            lines.extend(json.lines());
        }
        if !form.is_empty() {
            lines.push(vec![]);
            let program = vec![Span::quiet("…the program's fields")];
            lines.push(joined(std::iter::once(program).chain(form).collect(), "&"));
        }
        if !messages.is_empty() {
            lines.extend([
                vec![],
                vec![Span::quiet("in each gRPC message that gets secrets:")],
            ]);
            lines.extend(messages);
        }
        lines
    }

    fn request_line(&self) -> Vec<Span> {
        let has_body = !(self.json.is_empty() && self.form.is_empty() && self.messages.is_empty());
        let method = if has_body { "POST " } else { "GET " };
        let path = self.url.path.strip_suffix('/').unwrap_or(self.url.path);
        let mut line = vec![Span::text(method)];
        line.extend(self.fill_url(path));
        line.push(Span::quiet("/…"));
        let fixed = (!self.url.query.is_empty()).then(|| self.fill_url(self.url.query));
        let query: Vec<_> = fixed.into_iter().chain(self.query.iter().cloned()).collect();
        if !query.is_empty() {
            line.push(Span::text("?"));
            line.extend(joined(query, "&"));
        }
        line
    }

    fn host(&self) -> Vec<Span> {
        match self.url.authority {
            "" => vec![Span::text("host: "), Span::quiet("…")],
            authority => vec![Span::text(format!("host: {authority}"))],
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::{injector::v1::AuthType, vault::v1::Secret};

    use super::*;

    /// Draws a server whose only stored secret is `A`, without the markup.
    fn drawn(server: &Server) -> String {
        let stored = Secret {
            name: "A".to_owned(),
            ..Default::default()
        };
        let markup = picture(server, &Marks::of_secrets(Some(&[stored]))).into_string();
        let mut text = String::new();
        let mut is_tag = false;
        for letter in markup.replace("<s>", "[").replace("</s>", "]").chars() {
            match letter {
                '<' => is_tag = true,
                '>' => is_tag = false,
                letter if !is_tag => text.push(letter),
                _ => {}
            }
        }
        text.trim_end().replace('\u{a0}', " ")
    }

    fn server(url: &str, auth_type: AuthType, secrets: &[&str]) -> Server {
        Server {
            url: url.to_owned(),
            auth_type: auth_type.into(),
            inject_secrets: secrets.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        }
    }

    fn custom(url: &str, placements: Vec<Placement>) -> Server {
        let injection = |placement| Injection {
            required: true,
            placement: Some(placement),
        };
        Server {
            injections: placements.into_iter().map(injection).collect(),
            ..server(url, AuthType::Custom, &[])
        }
    }

    #[test]
    fn short_forms_are_drawn_as_the_upstream_gets_them() {
        let url = "https://api.example/v1/";
        for (auth_type, expected) in [
            (
                AuthType::Bearer,
                "authorization: Bearer ••• A\n…the program's headers",
            ),
            (
                AuthType::SecretHeaders,
                "x-mcp-secret-a: ••• A\n…the program's headers",
            ),
            (
                AuthType::Skill,
                "…the program's headers\n\n{\n  …the program's members\n  \"secrets\": {\n    \"A\": \"••• A\"\n  }\n}",
            ),
        ] {
            let method = if auth_type == AuthType::Skill {
                "POST"
            } else {
                "GET"
            };
            let expected = format!("{method} /v1/…\nhost: api.example\n{expected}");
            assert_eq!(
                drawn(&server(url, auth_type, &["A"])).replace("&quot;", "\""),
                expected
            );
        }
    }

    #[test]
    fn an_optional_secret_that_does_not_exist_is_struck_out_with_its_place() {
        let drawing = drawn(&server("https://api.example", AuthType::Bearer, &["B"]));
        assert!(
            drawing.contains("[authorization: Bearer ••• B not stored yet]"),
            "{drawing}"
        );
    }

    #[test]
    fn every_place_is_drawn() {
        let owned = str::to_owned;
        let value = || owned("${A}");
        let drawing = drawn(&custom(
            "https://api.example/bot${A}?fixed=1&key=${A}",
            vec![
                Placement::Basic(BasicPlacement {
                    username: owned("me"),
                    password: value(),
                }),
                Placement::Query(QueryPlacement {
                    name: owned("key"),
                    value: value(),
                }),
                Placement::Query(QueryPlacement {
                    name: owned("more"),
                    value: value(),
                }),
                Placement::Cookie(CookiePlacement {
                    name: owned("sid"),
                    value: value(),
                }),
                Placement::Json(JsonPlacement {
                    pointer: owned("/a/b"),
                    value: value(),
                }),
                Placement::Json(JsonPlacement {
                    pointer: owned("/a/c~1d"),
                    value: owned("x ${A}"),
                }),
                Placement::Form(FormPlacement {
                    field: owned("token"),
                    value: value(),
                }),
                Placement::Protobuf(ProtobufPlacement {
                    field: 7,
                    key: String::new(),
                    value: value(),
                }),
            ],
        ))
        .replace("&quot;", "\"")
        .replace("&amp;", "&");
        for expected in [
            "POST /bot••• A/…?fixed=1&key=••• A&more=••• A\n",
            "authorization: Basic base64( me:••• A )\n",
            "cookie: sid=••• A; …the program's cookies\n",
            "  \"a\": {\n    \"b\": \"••• A\",\n    \"c/d\": \"x ••• A\"\n  }\n",
            "…the program's fields&token=••• A\n",
            "field 7: { \"A\": \"••• A\" }",
        ] {
            assert!(drawing.contains(expected), "{expected}\n{drawing}");
        }
    }

    #[test]
    fn names_that_look_like_markup_are_escaped() {
        let url = "https://a.example/<b>";
        let markup = picture(&server(url, AuthType::Bearer, &["<i>"]), &Marks::default()).into_string();
        assert!(!markup.contains("<b>") && !markup.contains("<i>"), "{markup}");
    }
}
