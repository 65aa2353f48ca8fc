//! A bare QUIC stream: quinn with windows, packet sizes and buffers tuned for one fast hop, and nothing on top. What is sent is a
//! buffer in memory, and what is received is counted and forgotten, or hashed and written to a file.

use std::fs::{self, File};
use std::io::{self, BufRead, Write};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use quinn::{Endpoint, EndpointConfig, MtuDiscoveryConfig, TokioRuntime, TransportConfig, VarInt};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use socket2::{Domain, Socket, Type};

use crate::lab::netns::Host;
use crate::lab::runner::say;

/// The hidden subcommands of the harness that run [`serve`] and [`fetch`].
pub const SERVE: &str = "bare-serve";
/// See [`SERVE`].
pub const FETCH: &str = "bare-fetch";

/// What the certificate says.
const NAME: &str = "bare";

/// Bytes under way.
const WINDOW: u32 = 32 * 1024 * 1024;

/// Bytes of socket buffer.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;

/// What is given to the stream at once, in bytes.
const PIECE: usize = 256 * 1024;

/// The most that a packet of QUIC may have on links that take 1500 bytes with the headers of IPv4 and UDP.
const PAYLOAD: u16 = 1_472;

/// The command that serves on a host.
pub(super) fn serve_command(
    host: &Host,
    listen: SocketAddr,
    certificate: &Path,
    bytes: u64,
) -> Result<Command> {
    command(SERVE, host, listen, certificate, bytes)
}

/// The command that fetches from a host.
pub(super) fn fetch_command(
    host: &Host,
    server: SocketAddr,
    certificate: &Path,
    bytes: u64,
) -> Result<Command> {
    command(FETCH, host, server, certificate, bytes)
}

fn command(what: &str, host: &Host, address: SocketAddr, certificate: &Path, bytes: u64) -> Result<Command> {
    let mut command = host.command(std::env::current_exe().context("cannot tell where this program is")?);
    command.arg(what).arg(address.to_string()).arg(certificate);
    command.arg(bytes.to_string());
    Ok(command)
}

/// Writes its certificate to a file, says `ready`, and sends so many bytes to the first who opens a stream.
///
/// # Errors
/// When the port is taken, or the connection breaks.
pub fn serve(listen: SocketAddr, certificate: &Path, bytes: u64) -> Result<()> {
    let issued = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    fs::write(certificate, issued.cert.der())?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(issued.signing_key.serialize_der()));
    runtime()?.block_on(async {
        let mut config = quinn::ServerConfig::with_single_cert(vec![issued.cert.der().clone()], key)?;
        config.transport_config(transport());
        let endpoint = endpoint(listen, Some(config))?;
        say("ready")?;
        let connection = endpoint.accept().await.context("nobody came")?.await?;
        let (mut send, mut recv) = connection.accept_bi().await?;
        recv.read_to_end(1).await?;
        let piece = bytes::Bytes::from(vec![7; PIECE]);
        let mut left = bytes;
        while left > 0 {
            let length = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            send.write_chunk(piece.slice(..length)).await?;
            left -= length as u64;
        }
        send.finish()?;
        connection.closed().await;
        Ok(())
    })
}

/// Connects, says `ready`, waits for a line, fetches so many bytes, hashes and keeps them if it is given a file, and says `done`.
///
/// # Errors
/// When the connection breaks, or less comes.
pub fn fetch(server: SocketAddr, certificate: &Path, bytes: u64, keep: Option<&Path>) -> Result<()> {
    let mut kept = keep.map(File::create).transpose()?;
    let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(fs::read(certificate)?))?;
    runtime()?.block_on(async {
        let mut config = quinn::ClientConfig::with_root_certificates(Arc::new(roots))?;
        config.transport_config(transport());
        let endpoint = endpoint("0.0.0.0:0".parse()?, None)?;
        let connection = endpoint.connect_with(config, server, NAME)?.await?;
        say("ready")?;
        io::stdin().lock().read_line(&mut String::new())?;
        let (mut send, mut recv) = connection.open_bi().await?;
        send.write_all(b"!").await?;
        send.finish()?;
        let (mut received, mut batch) = (0, Vec::with_capacity(2 * PIECE));
        while let Some(chunk) = recv.read_chunk(usize::MAX, true).await? {
            received += chunk.bytes.len() as u64;
            if let Some(kept) = &mut kept {
                batch.extend_from_slice(&chunk.bytes);
                if batch.len() >= PIECE || received == bytes {
                    hash.update(&batch);
                    kept.write_all(&batch)?;
                    batch.clear();
                }
            }
        }
        hash.finish();
        ensure!(received == bytes, "{received} of {bytes} bytes came");
        say("done")?;
        connection.close(VarInt::from_u32(0), b"");
        endpoint.wait_idle().await;
        Ok(())
    })
}

/// One thread: on a machine with few processors two programs are faster so.
fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

fn endpoint(listen: SocketAddr, server: Option<quinn::ServerConfig>) -> Result<Endpoint> {
    let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, None)?;
    socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    socket.set_send_buffer_size(SOCKET_BUFFER)?;
    socket.bind(&listen.into()).with_context(|| format!("cannot listen on {listen}"))?;
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(PAYLOAD)?;
    Ok(Endpoint::new(config, server, UdpSocket::from(socket), Arc::new(TokioRuntime))?)
}

fn transport() -> Arc<TransportConfig> {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(PAYLOAD);
    let mut transport = TransportConfig::default();
    transport
        .stream_receive_window(VarInt::from_u32(WINDOW))
        .receive_window(VarInt::from_u32(WINDOW))
        .send_window(u64::from(WINDOW))
        .max_idle_timeout(Some(Duration::from_secs(30).try_into().expect("half a minute is short enough")))
        .initial_mtu(PAYLOAD)
        .mtu_discovery_config(Some(discovery));
    Arc::new(transport)
}
