//! A server that speaks S3, and a proxy in front of it that fails where it is told.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, mpsc};
use std::thread;

use crate::support::process::{free_port, installed};
use crate::support::*;

/// The port of the server that all tests share; it ends with this process.
static MOTO: LazyLock<u16> = LazyLock::new(|| {
    let program = installed("moto").join("bin/moto_server");
    let port = free_port();
    let (give, take) = mpsc::channel();
    // A child that dies with its thread needs one that lives as long as the process.
    thread::spawn(move || {
        let mut command = Command::new("setpriv");
        command.arg("--pdeathsig=KILL").arg("--").arg(program).args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        give.send(()).expect("hand over");
        // For ever, as far as the tests are concerned.
        child.expect("start moto_server").wait().expect("wait for moto_server");
    });
    take.recv().expect("moto_server did not start");
    wait_until("moto_server listens", secs(60), || TcpStream::connect(("127.0.0.1", port)).is_ok());
    port
});

/// As whoever the bucket is of; the server compares no signatures.
const SIGNED: &str =
    "Authorization: AWS4-HMAC-SHA256 Credential=id/20261122/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";

/// A bucket of its own.
pub(crate) struct Bucket {
    pub(crate) name: String,
}

impl Bucket {
    pub(crate) fn create(name: &str) -> Bucket {
        let bucket = Bucket { name: name.to_owned() };
        let (status, _, body) = bucket.ask("PUT", "");
        assert_eq!(status, 200, "{body}");
        bucket
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", *MOTO)
    }

    /// Status, headers and body of the answer to a request about `/bucket/KEY`.
    pub(crate) fn ask(&self, method: &str, key: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", *MOTO)).expect("connect to moto");
        let path = if key.starts_with('?') { key.to_owned() } else { format!("/{key}") };
        let head = format!(
            "{method} /{}{path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{SIGNED}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            self.name
        );
        stream.write_all(head.as_bytes()).expect("ask moto");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        (status, head.to_lowercase(), body.to_owned())
    }

    /// The names of all objects.
    pub(crate) fn objects(&self) -> Vec<String> {
        elements(&self.ask("GET", "?list-type=2").2, "Key")
    }

    /// The names of what is being uploaded.
    pub(crate) fn uploads(&self) -> Vec<String> {
        elements(&self.ask("GET", "?uploads").2, "Key")
    }
}

fn elements(xml: &str, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    xml.split(&open).skip(1).filter_map(|rest| Some(rest.split_once(&close)?.0.to_owned())).collect()
}

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is forbidden.
    Refuse,
    /// Try again later.
    Unavailable,
    /// It goes nowhere, and nor does anything after it.
    Hang,
    /// The connection is cut.
    Cut,
}

/// Passes on everything but uploads of the second part of anything.
pub(crate) struct Proxy {
    port: u16,
    /// Whether that has been asked for.
    has_met: Arc<AtomicBool>,
}

impl Proxy {
    pub(crate) fn start(fault: Fault) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let port = listener.local_addr().expect("an address").port();
        let has_met = Arc::new(AtomicBool::new(false));
        let met = Arc::clone(&has_met);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let met = Arc::clone(&met);
                thread::spawn(move || pass(client, fault, &met));
            }
        });
        Proxy { port, has_met }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn has_met(&self) -> bool {
        self.has_met.load(Ordering::Relaxed)
    }
}

/// A request begins where a read does: its client waits for each answer.
fn pass(mut client: TcpStream, fault: Fault, met: &AtomicBool) {
    let mut server = TcpStream::connect(("127.0.0.1", *MOTO)).expect("connect to moto");
    let (mut back, mut to) = (server.try_clone().expect("clone"), client.try_clone().expect("clone"));
    thread::spawn(move || {
        // Either side may go.
        let _ = std::io::copy(&mut back, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
    let mut chunk = vec![0; 64 << 10];
    while let Ok(bytes) = client.read(&mut chunk)
        && bytes > 0
    {
        let line = String::from_utf8_lossy(&chunk[..bytes.min(1000)]).into_owned();
        if line.starts_with("PUT ") && line.lines().next().is_some_and(|line| line.contains("partNumber=2&")) {
            met.store(true, Ordering::Relaxed);
            match fault {
                Fault::Refuse => answer(client, "403 Forbidden", "AccessDenied", "Access Denied"),
                Fault::Unavailable => answer(client, "503 Slow Down", "SlowDown", "Reduce your request rate"),
                Fault::Hang => hang(),
                Fault::Cut => _ = client.shutdown(Shutdown::Both),
            }
            return;
        }
        if fault == Fault::Hang && met.load(Ordering::Relaxed) {
            hang();
        }
        if server.write_all(&chunk[..bytes]).is_err() {
            break;
        }
    }
    let _ = server.shutdown(Shutdown::Both);
}

fn hang() {
    loop {
        thread::park();
    }
}

fn answer(mut client: TcpStream, status: &str, code: &str, message: &str) {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>");
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let _ = client.write_all((head + &body).as_bytes());
    // What is still coming would have the answer lost.
    let _ = client.shutdown(Shutdown::Write);
    let _ = std::io::copy(&mut client, &mut std::io::sink());
}
