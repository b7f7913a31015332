//! For tests only: a small HTTP server in this process that answers as it is told, including badly.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)] // for tests: a failure is a finding

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, mpsc};
use std::thread;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET` or `POST`.
    pub method: String,
    /// With its query.
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Request {
    /// The header of this lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }
}

/// What the server does.
pub enum Reply {
    /// Status, further header lines, body.
    Whole(u16, &'static str, String),
    /// An event stream of these parts, until the sender is dropped.
    Stream(mpsc::Receiver<Vec<u8>>),
    /// Closes the connection.
    Nothing,
}

/// Serves each connection by `handle` on a thread of its own; the URL.
pub fn serve(handle: impl Fn(Request) -> Reply + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let handle = Arc::new(handle);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let handle = Arc::clone(&handle);
            thread::spawn(move || {
                let _ = answer(stream, &*handle);
            });
        }
    });
    url
}

fn answer(mut stream: TcpStream, handle: &dyn Fn(Request) -> Reply) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.to_owned())),
            None => break,
        }
    }
    let mut request = Request {
        method,
        path,
        headers,
        body: String::new(),
    };
    let length = request
        .header("content-length")
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    request.body = String::from_utf8(body).unwrap_or_default();
    match handle(request) {
        Reply::Whole(status, lines, body) => {
            let length = body.len();
            let head = format!("HTTP/1.1 {status} X\r\n{lines}Connection: close\r\n");
            let rest = if status == 304 {
                "\r\n".to_owned()
            } else {
                format!("Content-Length: {length}\r\n\r\n{body}")
            };
            stream.write_all(format!("{head}{rest}").as_bytes())
        }
        Reply::Stream(parts) => {
            stream.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
            )?;
            for part in parts {
                stream.write_all(format!("{:x}\r\n", part.len()).as_bytes())?;
                stream.write_all(&part)?;
                stream.write_all(b"\r\n")?;
            }
            Ok(())
        }
        Reply::Nothing => Ok(()),
    }
}
