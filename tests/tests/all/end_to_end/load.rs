//! A thousand clients at one node's mirror, beside nginx with the same file in the same run.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use faasnet_sim::lab::image::Image;
use faasnet_sim::lab::process::wait_until;
use futures_util::future::join_all;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::solo::{Running, Solo};

const CLIENTS: u64 = 1_000;
const LAYER_BYTES: u64 = 1 << 30;

/// What each client reads over and over, a thousandth of the layer.
const SHARE: u64 = LAYER_BYTES / CLIENTS;

/// How often each client reads its share in one round: a round moves 3 GiB.
const READS: usize = 3;

/// Rounds of each server, one after the other, so that both see the same machine.
const ROUNDS: usize = 3;

/// The share of nginx's throughput that the mirror must reach.
const FLOOR: f64 = 0.5;

/// What the node may take at most with a thousand clients, and by how much that may grow from the first round to the last.
const MAX_RSS: u64 = 256 << 20;
const MAX_GROWTH: u64 = 32 << 20;

const START_LIMIT: Duration = Duration::from_secs(60);

#[test]
#[ignore = "needs nginx and a release build, and moves 18 GiB; .ci/run runs it"]
fn a_thousand_clients_are_served_with_flat_memory() {
    let scratch = TempDir::new().unwrap();
    let image = Image::synthetic(&scratch.path().join("layout"), LAYER_BYTES).unwrap();
    let layer = image.blobs.iter().max_by_key(|layer| layer.size).unwrap();
    let file = image.blob_path(&layer.digest);

    let node = start_node(scratch.path(), &image);
    let (_nginx, nginx_addr) = start_nginx(scratch.path(), &file);
    let ours =
        Target { addr: node.http(), path: format!("/v2/team/app/blobs/{}?ns=local.test", layer.digest) };
    let name = file.file_name().unwrap().to_str().unwrap();
    let theirs = Target { addr: nginx_addr, path: format!("/{name}") };

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let content = Arc::new(File::open(&file).unwrap());
    for target in [&ours, &theirs] {
        runtime.block_on(round(target, 1, Some(&content)));
        println!("[load] all bytes are right from {}", target.addr);
    }
    let (mut ratios, mut memory) = (Vec::new(), Vec::new());
    for number in 1..=ROUNDS {
        let [ours, theirs] = [&ours, &theirs].map(|target| runtime.block_on(round(target, READS, None)));
        println!("[load] round {number}: {ours:.0} MB/s, nginx {theirs:.0} MB/s, {:.2} of it", ours / theirs);
        ratios.push(ours / theirs);
        memory.push(node.memory("VmRSS:"));
    }
    let peak = node.memory("VmHWM:");
    println!("[load] memory: {memory:?} B after each round, {peak} B at most");
    ratios.sort_by(f64::total_cmp);
    assert!(ratios[ROUNDS / 2] >= FLOOR, "of nginx's throughput: {ratios:?}");
    assert!(peak <= MAX_RSS, "{peak} B");
    assert!(memory[ROUNDS - 1] <= memory[0] + MAX_GROWTH, "{memory:?} B");
}

/// What is read, and from whom.
struct Target {
    addr: SocketAddr,
    path: String,
}

/// All clients read their shares so many times, at once. Gives the throughput in MB/s.
async fn round(target: &Target, reads: usize, expected: Option<&Arc<File>>) -> f64 {
    let start = Instant::now();
    join_all((0..CLIENTS).map(|client| {
        let read = read_share(target.addr, target.path.clone(), client * SHARE, reads, expected.cloned());
        async { tokio::spawn(read).await.unwrap() }
    }))
    .await;
    (CLIENTS * SHARE) as f64 * reads as f64 / 1e6 / start.elapsed().as_secs_f64()
}

/// One client: one connection, the same range again and again.
async fn read_share(addr: SocketAddr, path: String, start: u64, reads: usize, expected: Option<Arc<File>>) {
    let mut connection = BufReader::with_capacity(64 << 10, TcpStream::connect(addr).await.unwrap());
    let last = start + SHARE - 1;
    let request = format!("GET {path} HTTP/1.1\r\nHost: load\r\nRange: bytes={start}-{last}\r\n\r\n");
    let mut piece = vec![0; 64 << 10];
    for _ in 0..reads {
        connection.write_all(request.as_bytes()).await.unwrap();
        assert!(read_line(&mut connection).await.contains(" 206 "));
        while !read_line(&mut connection).await.is_empty() {}
        let mut at = start;
        while at <= last {
            let most = piece.len().min(usize::try_from(last + 1 - at).unwrap());
            let length = connection.read(&mut piece[..most]).await.unwrap();
            assert!(length > 0, "the answer ends early");
            if let Some(file) = &expected {
                let mut right = vec![0; length];
                file.read_exact_at(&mut right, at).unwrap();
                assert!(piece[..length] == right, "wrong bytes at {at}");
            }
            at += length as u64;
        }
    }
}

async fn read_line(connection: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    connection.read_line(&mut line).await.unwrap();
    line.trim_end().to_owned()
}

/// A node that holds the image.
fn start_node(scratch: &Path, image: &Image) -> Solo {
    let layout = scratch.join("layout");
    let node = Solo::start(scratch, "node", &[], &["--origin", &format!("local.test={}", layout.display())]);
    node.pull(&format!("local.test/team/app@{}", image.manifest.digest)).unwrap();
    node
}

/// As its own documentation would have it serve large files.
fn start_nginx(scratch: &Path, file: &Path) -> (Running, SocketAddr) {
    let addr = free_addr();
    let directory = scratch.join("nginx");
    fs::create_dir_all(&directory).unwrap();
    let config = format!(
        "daemon off; pid {0}/pid; error_log {0}/error.log; user root; worker_processes auto;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; sendfile on; tcp_nopush on; client_body_temp_path {0}/body; proxy_temp_path {0}/proxy;\n\
         fastcgi_temp_path {0}/fastcgi; uwsgi_temp_path {0}/uwsgi; scgi_temp_path {0}/scgi;\n\
         server {{ listen {addr}; root {1}; keepalive_requests 100000; }} }}",
        directory.display(),
        file.parent().unwrap().display()
    );
    let path = directory.join("nginx.conf");
    fs::write(&path, config).unwrap();
    let nginx = Running::start(Command::new("nginx").arg("-c").arg(&path));
    answers(addr);
    (nginx, addr)
}

fn answers(addr: SocketAddr) {
    let look = || Ok(std::net::TcpStream::connect(addr).ok());
    wait_until("a server to answer", START_LIMIT, look).unwrap();
}

/// An address that nobody listens at just now.
fn free_addr() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
