//! The buttons of the form for a server that change the form and nothing else.

use super::{
    form::ServerForm,
    rows::{MAX_ROWS, PlaceKind, PlaceRow, SecretRow},
};
use crate::console::fields::Fields;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum FormStep {
    Draw,
    AddSecret,
    AddPlace(PlaceKind),
    RemoveSecret(usize),
    RemovePlace(usize),
}

impl FormStep {
    /// Returns the step that the form was sent with, and `None` for the change itself.
    pub(super) fn of(fields: &Fields) -> Option<Self> {
        let name = fields.text("step");
        let after = |prefix| name.strip_prefix(prefix);
        if name.is_empty() {
            None
        } else if name == "secret" {
            Some(Self::AddSecret)
        } else if let Some(kind) = after("place-").and_then(PlaceKind::parse) {
            Some(Self::AddPlace(kind))
        } else if let Some(Ok(index)) = after("remove-secret-").map(str::parse) {
            Some(Self::RemoveSecret(index))
        } else if let Some(Ok(index)) = after("remove-place-").map(str::parse) {
            Some(Self::RemovePlace(index))
        } else {
            Some(Self::Draw)
        }
    }

    /// Changes the form, and returns the id of the field that the person fills in next.
    pub(super) fn apply(self, form: &mut ServerForm) -> String {
        match self {
            Self::Draw => String::new(),
            // The view offers no more rows; a form that is open in another tab still might.
            Self::AddSecret if form.secrets.len() >= MAX_ROWS => String::new(),
            Self::AddPlace(_) if form.has_all_places() => String::new(),
            Self::AddSecret => {
                form.secrets.push(SecretRow::new());
                format!("secret-{}", form.secrets.len() - 1)
            }
            Self::AddPlace(kind) => {
                // The row that a new form proposes makes room for the one that the person wants.
                form.places.retain(|row| !row.is_blank());
                form.places.push(PlaceRow::new(kind));
                format!("place-{}-name", form.places.len() - 1)
            }
            Self::RemoveSecret(index) => {
                remove(&mut form.secrets, index);
                "secret-0".to_owned()
            }
            Self::RemovePlace(index) => {
                remove(&mut form.places, index);
                "place-0-name".to_owned()
            }
        }
    }
}

fn remove<T>(rows: &mut Vec<T>, index: usize) {
    if index < rows.len() {
        rows.remove(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(step: &str) -> (ServerForm, String) {
        let fields =
            Fields::parse(format!("step={step}&secret-0=A&secret-1=B&place-0-kind=header").as_bytes());
        let mut form = ServerForm::of(&fields).unwrap();
        let focus = FormStep::of(&fields).unwrap().apply(&mut form);
        (form, focus)
    }

    #[test]
    fn steps_add_and_remove_rows() {
        let (form, focus) = applied("secret");
        assert_eq!((form.secrets.len(), focus.as_str()), (3, "secret-2"));
        let (form, focus) = applied("place-basic");
        assert_eq!((form.places.len(), focus.as_str()), (1, "place-0-name"));
        assert_eq!(form.places[0].kind, PlaceKind::Basic);
        let (form, _) = applied("remove-secret-0");
        assert_eq!(form.secrets[0].name, "B");
        let (form, _) = applied("remove-place-0");
        assert!(form.places.is_empty());
        for other in ["remove-place-9", "remove-place-x", "place-x", "picture"] {
            let (form, _) = applied(other);
            assert_eq!((form.secrets.len(), form.places.len()), (2, 1), "{other}");
        }
        assert_eq!(FormStep::of(&Fields::parse(b"name=x")), None);
    }

    #[test]
    fn a_step_adds_no_row_that_the_form_could_not_send() {
        let mut form = ServerForm::new();
        for _ in 0..=MAX_ROWS {
            FormStep::AddSecret.apply(&mut form);
            FormStep::AddPlace(PlaceKind::Header).apply(&mut form);
            form.places.iter_mut().for_each(|row| row.name = "x".to_owned());
        }
        assert_eq!((form.secrets.len(), form.places.len()), (MAX_ROWS, MAX_ROWS));
    }
}
