//! A load balancer that says in PROXY headers where its clients come from.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

/// What connects to `port` is passed on, behind a header.
pub(crate) struct Balancer {
    pub(crate) port: u16,
}

impl Balancer {
    pub(crate) fn start(to: u16, header: Vec<u8>) -> Balancer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let port = listener.local_addr().expect("an address").port();
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let header = header.clone();
                // Whatever goes wrong, the client sees its connection closed.
                thread::spawn(move || forward(near, to, &header));
            }
        });
        Balancer { port }
    }
}

fn forward(near: TcpStream, to: u16, header: &[u8]) -> std::io::Result<()> {
    let mut far = TcpStream::connect(("127.0.0.1", to))?;
    far.write_all(header)?;
    let (back_in, back_out) = (far.try_clone()?, near.try_clone()?);
    thread::spawn(move || copy(back_in, back_out));
    copy(near, far)
}

fn copy(mut from: TcpStream, mut to: TcpStream) -> std::io::Result<()> {
    let mut chunk = [0; 16 * 1024];
    loop {
        match from.read(&mut chunk)? {
            0 => return to.shutdown(Shutdown::Write),
            n => to.write_all(&chunk[..n])?,
        }
    }
}

pub(crate) fn header_v1(client: &str) -> Vec<u8> {
    let client: SocketAddr = client.parse().expect("an address");
    let (family, any) = if client.is_ipv4() { ("TCP4", "0.0.0.0") } else { ("TCP6", "::") };
    format!("PROXY {family} {} {any} {} 6432\r\n", client.ip(), client.port()).into_bytes()
}

/// `command` is 0x20 for LOCAL, 0x21 for PROXY; `family` is 0x11 for IPv4, 0x21 for IPv6, 0x31 for Unix.
pub(crate) fn header_v2_of(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(body.len()).expect("a short body").to_be_bytes();
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, family], &len, body].concat()
}

/// With a few TLVs.
pub(crate) fn header_v2(client: &str) -> Vec<u8> {
    let client: SocketAddr = client.parse().expect("an address");
    let (port, tlvs) = (client.port().to_be_bytes(), b"\x05\0\x04uniq\xea\0\x05\x01vpce");
    match client {
        SocketAddr::V4(client) => {
            header_v2_of(0x21, 0x11, &[&client.ip().octets()[..], &[0; 4], &port, &[0; 2], tlvs].concat())
        }
        SocketAddr::V6(client) => {
            header_v2_of(0x21, 0x21, &[&client.ip().octets()[..], &[0; 16], &port, &[0; 2], tlvs].concat())
        }
    }
}
