//! The fields of a message that belong to the injector.

use crate::placement::{AuthType, FieldNumber, Injection, Placement, ProtobufSecrets};

/// The numbers of the map fields that get secrets. The injector removes what the program sends in these fields, also when
/// the secrets do not exist.
pub struct OwnedFields(Vec<FieldNumber>);

impl OwnedFields {
    /// Returns the fields of a server: the field of the auth type skill, or those of the server's injections.
    pub(crate) fn of(auth_type: AuthType, injections: &[Injection]) -> Self {
        // The field comes from the auth type, because a skill without secrets has no injections, and still owns its field.
        if let AuthType::Skill(Some(ProtobufSecrets { field, messages: _ })) = auth_type {
            return Self(vec![field]);
        }
        let mut fields = Vec::new();
        for injection in injections {
            if let Placement::Protobuf { field, .. } = &injection.placement
                && !fields.contains(field)
            {
                fields.push(*field);
            }
        }
        Self(fields)
    }

    pub(super) fn contain(&self, number: u32) -> bool {
        self.0.iter().any(|field| field.get() == number)
    }
}

impl FromIterator<FieldNumber> for OwnedFields {
    fn from_iter<I: IntoIterator<Item = FieldNumber>>(fields: I) -> Self {
        Self(fields.into_iter().collect())
    }
}
