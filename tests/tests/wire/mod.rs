//! gRPC calls whose messages are bytes, for messages that no generated client would send or show.

use std::{net::SocketAddr, sync::Arc};

use bytes::{Buf as _, BufMut as _, Bytes};
use chassis::channel::channel;
use chassis::tls;
use e2e::Pki;
use futures_util::Stream;
use http::uri::PathAndQuery;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use tonic::{
    Request, Response, Status, Streaming,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};

/// A codec that leaves messages as they are on the wire.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self::Encoder {
        Self
    }

    fn decoder(&mut self) -> Self::Decoder {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// Calls a method of any kind with one message, and returns when the head of the response has arrived. A refusal is an
/// error.
pub(crate) async fn open(
    channel: &Channel,
    path: &str,
    message: Bytes,
) -> Result<Response<Streaming<Bytes>>, Status> {
    open_with(channel, path, tokio_stream::once(message)).await
}

/// Calls a method like [`open`], with a stream of messages.
pub(crate) async fn open_with(
    channel: &Channel,
    path: &str,
    messages: impl Stream<Item = Bytes> + Send + 'static,
) -> Result<Response<Streaming<Bytes>>, Status> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready()
        .await
        .map_err(|error| Status::from_error(error.into()))?;
    let path = PathAndQuery::try_from(path).unwrap();
    grpc.streaming(Request::new(messages), path, Raw).await
}

/// Returns a channel to a service, without a client certificate.
pub(crate) fn anonymous(pki: &Pki, address: SocketAddr) -> Channel {
    let config = anonymous_tls(pki, &[&rustls::version::TLS13]);
    channel(&address.to_string().parse().unwrap(), Arc::new(config)).unwrap()
}

/// Returns TLS settings that trust the tests' CA and present no certificate.
pub(crate) fn anonymous_tls(
    pki: &Pki,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(pki.ca_pem().as_bytes()).unwrap())
        .unwrap();
    let mut config = ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}
