//! The explanation of one server.

use proto::injector::v1::ExplainInjectionResponse;

use crate::failure::Failure;

/// The content of a call to a server at this moment, or the reason why it is not known.
pub(in crate::console) type Explained = Result<ExplainInjectionResponse, Failure>;
