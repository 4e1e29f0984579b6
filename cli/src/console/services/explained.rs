//! The explanation of one server.

use proto::injector::v1::ExplainInjectionResponse;

use crate::failure::Failure;

/// What a call to a server would carry now, or the reason why it is not known.
pub(in crate::console) type Explained = Result<ExplainInjectionResponse, Failure>;
