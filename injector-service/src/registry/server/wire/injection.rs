//! Injections as the API has them.

use proto::injector::v1::{
    self as api, BasicPlacement, CookiePlacement, FormPlacement, HeaderPlacement, JsonPlacement,
    PathPlacement, ProtobufPlacement, QueryPlacement, injection::Placement as ApiPlacement,
};

use crate::registry::server::{
    error::InjectionError,
    raw_injection::{
        RawBasic, RawForm, RawInjection, RawJson, RawNamedValue, RawPath, RawPlacement, RawProtobuf,
    },
};

impl RawInjection {
    pub(super) fn from_wire(injection: &api::Injection) -> Result<Self, InjectionError> {
        let api::Injection { required, placement } = injection.clone();
        let placement = match placement.ok_or(InjectionError::NoPlace)? {
            ApiPlacement::Header(HeaderPlacement { name, value }) => {
                RawPlacement::Header(RawNamedValue { name, value })
            }
            ApiPlacement::Basic(BasicPlacement { username, password }) => {
                RawPlacement::Basic(RawBasic { username, password })
            }
            ApiPlacement::Query(QueryPlacement { name, value }) => {
                RawPlacement::Query(RawNamedValue { name, value })
            }
            ApiPlacement::Path(PathPlacement { variable }) => RawPlacement::Path(RawPath { variable }),
            ApiPlacement::Cookie(CookiePlacement { name, value }) => {
                RawPlacement::Cookie(RawNamedValue { name, value })
            }
            ApiPlacement::Json(JsonPlacement { pointer, value }) => {
                RawPlacement::Json(RawJson { pointer, value })
            }
            ApiPlacement::Form(FormPlacement { field, value }) => {
                RawPlacement::Form(RawForm { field, value })
            }
            ApiPlacement::Protobuf(ProtobufPlacement { field, key, value }) => {
                RawPlacement::Protobuf(RawProtobuf { field, key, value })
            }
        };
        Ok(Self { required, placement })
    }

    /// Returns an injection without a placement for a secret whose place the auth type decides.
    pub(super) fn into_wire(self) -> api::Injection {
        let Self { required, placement } = self;
        let placement = match placement {
            RawPlacement::Secret(_) => None,
            RawPlacement::Header(RawNamedValue { name, value }) => {
                Some(ApiPlacement::Header(HeaderPlacement { name, value }))
            }
            RawPlacement::Basic(RawBasic { username, password }) => {
                Some(ApiPlacement::Basic(BasicPlacement { username, password }))
            }
            RawPlacement::Query(RawNamedValue { name, value }) => {
                Some(ApiPlacement::Query(QueryPlacement { name, value }))
            }
            RawPlacement::Path(RawPath { variable }) => Some(ApiPlacement::Path(PathPlacement { variable })),
            RawPlacement::Cookie(RawNamedValue { name, value }) => {
                Some(ApiPlacement::Cookie(CookiePlacement { name, value }))
            }
            RawPlacement::Json(RawJson { pointer, value }) => {
                Some(ApiPlacement::Json(JsonPlacement { pointer, value }))
            }
            RawPlacement::Form(RawForm { field, value }) => {
                Some(ApiPlacement::Form(FormPlacement { field, value }))
            }
            RawPlacement::Protobuf(RawProtobuf { field, key, value }) => {
                Some(ApiPlacement::Protobuf(ProtobufPlacement { field, key, value }))
            }
        };
        api::Injection { required, placement }
    }
}
