use super::{assert_rewritten, assert_unchanged, name};

/// The longest spelling of the name, with every letter escaped.
const ESCAPED: &str = r"\u0073\u0065\u0063\u0072\u0065\u0074\u0073";

#[test]
fn every_spelling_of_the_name_is_removed() {
    for spelled in [
        "secrets",
        "Secrets",
        "SECRETS",
        "sEcReTs",
        "ſecrets",
        "secretſ",
        "ſECRETſ",
        "ſecretſ",
        ESCAPED,
        r"\u0053\u0045\u0043\u0052\u0045\u0054\u0053",
        r"\u017fecrets",
        r"\u017Fecret\u017F",
        r"s\u0065crets",
        r"\u0073ecretſ",
        r"ſ\u0045CRET\u017f",
    ] {
        assert_rewritten(
            format!(r#"{{"a":1,"{spelled}":{{"x":1}},"b":2}}"#),
            r#"{"a":1,"b":2,OURS}"#,
        );
    }
}

#[test]
fn similar_names_are_kept() {
    for spelled in [
        "",
        "s",
        "secret",
        "secretss",
        "ssecrets",
        "secrets ",
        " secrets",
        "secrêts",
        "secrets\u{301}",
        "secretz",
        "$secrets",
        "\u{FF53}ecrets",
        "secretẞ",
        "secre\u{FB05}",
        "secre\u{FB06}s",
        "secrest",
        "ſ",
        "ſſ",
        "secrets\u{200d}",
        "5ecrets",
        r"secrets\u0000",
        r"secrets\n",
        r"\\u0073ecrets",
        r"\u0073\u0065\u0063\u0072\u0065\u0074",
        r"secrets\ud800",
        r"\u0173ecrets",
        r"\u1073ecrets",
        r"\/secrets",
        r#"secrets\""#,
        r"s\u0000ecrets",
        "\u{53}\u{0117}crets",
        r"\u0073\u0065\u0063\u0072\u0065\u0074\u0073s",
        r"\u0073\u0065\u0063\u0072\u0065\u0074\u0073\u0073",
    ] {
        assert_unchanged(&format!(r#"{{"{spelled}":{{"x":1}},"b":2}}"#));
    }
}

#[test]
fn the_longest_spelling_has_the_stated_length() {
    assert_eq!(ESCAPED.len(), name::LONGEST_SPELLING);
}

/// Returns the full case folding of `c`, made from mappings in `std`: upper case replaces `ſ` and the ligatures.
fn case_folded(c: char) -> String {
    c.to_uppercase().flat_map(char::to_lowercase).collect()
}

#[test]
fn no_other_character_folds_to_letters_of_the_name() {
    let folding: String = (char::MIN..=char::MAX)
        .filter(|&c| {
            name::NAME.contains(&case_folded(c)) || name::NAME.contains(&c.to_lowercase().to_string())
        })
        .collect();
    assert_eq!(folding, "CERSTcerstſ");
    assert_eq!([case_folded('\u{FB05}'), case_folded('\u{FB06}')], ["st", "st"]);
}

/// Replaces every one to three letters of the name by every character, raw and escaped.
#[test]
fn a_character_matches_the_letters_that_it_folds_to() {
    let name = name::NAME;
    let places =
        (0..name.len()).flat_map(|from| (from + 1..=name.len().min(from + 3)).map(move |to| (from, to)));
    let places: Vec<_> = places
        .map(|(from, to)| (&name[..from], &name[from..to], &name[to..]))
        .collect();
    let mut raw = String::new();
    for c in (char::MIN..=char::MAX).filter(|c| !matches!(c, '\0'..' ' | '"' | '\\')) {
        let folded = case_folded(c);
        let mut spellings = vec![c.to_string()];
        if (c as u32) < 0x1_0000 {
            spellings.push(format!("\\u{:04x}", c as u32));
        }
        for (before, replaced, after) in &places {
            for spelling in &spellings {
                raw.clear();
                raw.extend([before, spelling.as_str(), after]);
                assert_eq!(name::is_secrets(raw.as_bytes()), folded == *replaced, "{raw}");
            }
        }
    }
}
