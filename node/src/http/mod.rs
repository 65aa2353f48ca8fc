//! Serves the mirror and the API: over the HTTP port, and over a Unix socket beside it.
//!
//! Owns connections: how many there may be, how long they may dally, and how they end when the node leaves. Owns nothing
//! of what is said on them; see [`crate::mirror`] and [`crate::api`].

mod socket;

use std::sync::Arc;
use std::time::Duration;

use axum::serve::{Listener, ListenerExt};
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::pin;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::api::Door;
use crate::metrics::{Metrics, requests};
use crate::node::Node;
use crate::{api, mirror};

pub(crate) use socket::Socket;

/// The largest head of a request, in bytes. Clients send below two kilobytes; registries' tokens come to eight.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// How long a client may take none of what it is sent before it is given up as dead. kubelet, the most patient of them,
/// gives up a pull that has not moved for five minutes.
const STALL_LIMIT: Duration = Duration::from_secs(300);

/// What those who connect may claim for themselves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Connections to one door at once; more are closed at once. The largest machines start a few hundred containers
    /// together, each with up to a dozen connections, and an idle one costs ten kilobytes.
    pub(crate) connections: usize,
    /// How long the head of a request may take, from the opening of the connection or the end of the last answer. So
    /// idle connections last that long, too: longer than the few seconds that clients take between two requests.
    pub(crate) head: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 4_096, head: Duration::from_secs(30) }
    }
}

/// The router of everything that a node serves, for each door.
pub(crate) fn router(node: Node, metrics: Arc<Metrics>) -> Router {
    requests::counted(mirror::router(node.clone()).merge(api::router(node)), metrics)
}

/// The open doors of a node. Cheap to clone; all clones are the same doors.
#[derive(Clone)]
pub(crate) struct Doors {
    limits: Limits,
    metrics: Arc<Metrics>,
    /// No new connections; those there are end with their answer.
    closing: CancellationToken,
    /// Everything ends, wherever it is.
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Doors {
    /// None yet. Whatever will be opened is shut when `stop` is cancelled.
    pub(crate) fn new(limits: Limits, metrics: Arc<Metrics>, stop: CancellationToken) -> Self {
        allow_many_files();
        Self { limits, metrics, closing: CancellationToken::new(), stop, tasks: TaskTracker::new() }
    }

    /// Serves those who connect to the HTTP port.
    pub(crate) fn open_port(&self, listener: TcpListener, router: Router) {
        let door = listener.local_addr().map_or(Door::Network, Door::at);
        self.open(listener.tap_io(|stream| set_up(stream)), door, router);
    }

    /// Serves those who connect to the Unix socket.
    pub(crate) fn open_socket(&self, socket: Socket, router: Router) {
        self.open(socket, Door::Socket, router);
    }

    fn open(&self, listener: impl Listener, door: Door, router: Router) {
        let accepting = self.clone().accept(listener, router.layer(Extension(door)));
        self.tasks.spawn(self.stop.clone().run_until_cancelled_owned(accepting));
    }

    async fn accept(self, mut listener: impl Listener, router: Router) {
        let slots = Arc::new(Semaphore::new(self.limits.connections));
        loop {
            let connection = tokio::select! {
                () = self.closing.cancelled() => return,
                (connection, _) = listener.accept() => connection,
            };
            // Dropped, and so closed: a client goes on to its next host at once, and nothing is spent on an answer.
            let Ok(slot) = slots.clone().try_acquire_owned() else {
                self.metrics.connection_refused();
                continue;
            };
            let serving = serve(connection, router.clone(), self.limits.head, self.closing.clone());
            self.tasks.spawn(self.stop.clone().run_until_cancelled_owned(async move {
                let _slot = slot;
                if let Err(error) = serving.await {
                    debug!(%error, "a connection broke off");
                }
            }));
        }
    }

    /// Takes no more connections, and waits until the answers under way are out.
    pub(crate) async fn close(&self) {
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Serves one connection until its client ends it or, once `closing`, until the answer under way is out.
async fn serve(
    connection: impl AsyncRead + AsyncWrite + Unpin,
    router: Router,
    head_limit: Duration,
    closing: CancellationToken,
) -> hyper::Result<()> {
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_limit)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(connection), TowerToHyperService::new(router));
    pin!(serving);
    tokio::select! {
        ended = &mut serving => return ended,
        () = closing.cancelled() => serving.as_mut().graceful_shutdown(),
    }
    serving.await
}

fn set_up(stream: &TcpStream) {
    let set =
        stream.set_nodelay(true).and_then(|()| SockRef::from(stream).set_tcp_user_timeout(Some(STALL_LIMIT)));
    if let Err(error) = set {
        debug!(%error, "a connection is not set up as it should be");
    }
}

/// Lets this process have as many files and connections open as the system grants it. The limit that it starts with is
/// often 1,024, for the sake of programs that still use `select`.
fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        debug!(%error, ?limit, "the limit of open files stays as it is");
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::routing::get;
    use futures_util::future::join_all;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::{Instant, timeout};

    use super::*;

    /// How long anything may take. Generous: it only bounds a failure.
    const LIMIT: Duration = Duration::from_secs(60);

    const REQUEST: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

    /// Doors with one port, behind which every request waits at a gate.
    struct Stage {
        doors: Doors,
        addr: SocketAddr,
        gate: Arc<Semaphore>,
        inside: Arc<Semaphore>,
    }

    impl Stage {
        async fn with(limits: Limits) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let addr = listener.local_addr().unwrap();
            let [gate, inside] = [0, 0].map(|permits| Arc::new(Semaphore::new(permits)));
            let (at_gate, entered) = (gate.clone(), inside.clone());
            let answer = async move || {
                entered.add_permits(1);
                at_gate.acquire().await.unwrap().forget();
                "done"
            };
            let doors = Doors::new(limits, Arc::default(), CancellationToken::new());
            doors.open_port(listener, Router::new().route("/", get(answer)));
            Self { doors, addr, gate, inside }
        }

        async fn connect(&self, sends: &str) -> TcpStream {
            let mut connection = TcpStream::connect(self.addr).await.unwrap();
            connection.write_all(sends.as_bytes()).await.unwrap();
            connection
        }

        /// Waits until so many more requests are under way.
        async fn enter(&self, requests: u32) {
            timeout(LIMIT, self.inside.acquire_many(requests)).await.unwrap().unwrap().forget();
        }
    }

    /// All that comes until the connection ends, however it ends.
    async fn read(connection: &mut TcpStream) -> String {
        let mut all = Vec::new();
        let _ = timeout(LIMIT, connection.read_to_end(&mut all)).await.expect("the connection must end");
        String::from_utf8(all).unwrap()
    }

    /// The answer to one request, on a connection that stays open.
    async fn answer(connection: &mut TcpStream) -> String {
        let mut all = Vec::new();
        while !all.ends_with(b"done") {
            let read = timeout(LIMIT, connection.read_buf(&mut all)).await.expect("an answer must come");
            assert_ne!(read.unwrap(), 0, "it ends after {:?}", String::from_utf8_lossy(&all));
        }
        String::from_utf8(all).unwrap()
    }

    #[tokio::test]
    async fn who_never_finishes_a_request_is_sent_away() {
        let stage = Stage::with(Limits { head: Duration::from_millis(100), ..Limits::default() }).await;
        stage.gate.add_permits(1);
        let start = Instant::now();
        for sends in ["", "GET /", "GET / HTTP/1.1\r\nHost: localhost\r\n"] {
            let mut connection = stage.connect(sends).await;
            assert_eq!(read(&mut connection).await, "", "{sends:?}");
        }
        let mut idle = stage.connect(REQUEST).await;
        assert!(read(&mut idle).await.ends_with("done"), "it is served, and ends when it asks no more");
        assert!(start.elapsed() < Limits::default().head, "by the limit that was set, not by another");
    }

    #[tokio::test]
    async fn a_thousand_clients_are_served_at_once() {
        let stage = Stage::with(Limits::default()).await;
        let mut clients = join_all((0..1_000).map(|_| stage.connect(REQUEST))).await;
        stage.enter(1_000).await;
        stage.gate.add_permits(1_000);
        for answer in join_all(clients.iter_mut().map(answer)).await {
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
    }

    #[tokio::test]
    async fn too_many_are_sent_away_until_others_have_gone() {
        let stage = Stage::with(Limits { connections: 2, ..Limits::default() }).await;
        let mut first = stage.connect(REQUEST).await;
        let _second = stage.connect(REQUEST).await;
        stage.enter(2).await;
        let mut third = stage.connect(REQUEST).await;
        assert_eq!(read(&mut third).await, "");
        stage.gate.add_permits(2);
        answer(&mut first).await;
        drop(first);
        // Nothing tells a client that there is room again.
        let served = async {
            loop {
                stage.gate.add_permits(1);
                let mut next = TcpStream::connect(stage.addr).await.unwrap();
                let request = REQUEST.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
                let _ = next.write_all(request.as_bytes()).await;
                if read(&mut next).await.ends_with("done") {
                    break;
                }
            }
        };
        timeout(LIMIT, served).await.expect("there is room for one again");
    }

    #[tokio::test]
    async fn answers_under_way_come_out_before_the_end() {
        let stage = Stage::with(Limits::default()).await;
        stage.gate.add_permits(1);
        let mut idle = stage.connect(REQUEST).await;
        answer(&mut idle).await;
        stage.enter(1).await;
        let mut busy = stage.connect(REQUEST).await;
        stage.enter(1).await;
        let closing = {
            let doors = stage.doors.clone();
            tokio::spawn(async move { doors.close().await })
        };
        assert_eq!(read(&mut idle).await, "", "who asks for nothing is sent away");
        assert!(TcpStream::connect(stage.addr).await.is_err(), "nobody new comes in");
        assert!(!closing.is_finished());
        stage.gate.add_permits(1);
        assert!(read(&mut busy).await.ends_with("done"));
        timeout(LIMIT, closing).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn what_is_not_out_in_time_is_cut() {
        let stage = Stage::with(Limits::default()).await;
        let mut busy = stage.connect(REQUEST).await;
        stage.enter(1).await;
        assert!(timeout(Duration::ZERO, stage.doors.close()).await.is_err());
        stage.doors.stop.cancel();
        assert_eq!(read(&mut busy).await, "");
        timeout(LIMIT, stage.doors.close()).await.unwrap();
    }
}
