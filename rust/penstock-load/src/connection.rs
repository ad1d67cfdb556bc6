//! One socket, plain or secured.

use crate::job::Job;
use crate::tls::Tls;
use mio::net::TcpStream;
use rustls::{ClientConnection, StreamOwned};
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

/// Plain or secured.
pub enum Transport {
    /// `http:`
    Plain(TcpStream),
    /// `https:`
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Transport {
    /// Begin to connect.
    pub fn connect(address: SocketAddr, tls: Option<&Tls>) -> io::Result<Self> {
        let socket = TcpStream::connect(address)?;
        let _ = socket.set_nodelay(true); // refused by a socket that failed already, which the next write tells
        let Some((config, name)) = tls else { return Ok(Self::Plain(socket)) };
        let session = ClientConnection::new(Arc::clone(config), name.clone()).map_err(io::Error::other)?;
        Ok(Self::Tls(Box::new(StreamOwned::new(session, socket))))
    }

    /// The socket under it.
    pub fn socket(&mut self) -> &mut TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => &mut stream.sock,
        }
    }

    /// The secure session isn't agreed on yet.
    pub fn is_handshaking(&self) -> bool {
        matches!(self, Self::Tls(stream) if stream.conn.is_handshaking())
    }

    /// What the encryption layer holds back is on its way.
    pub fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(stream) => stream.flush(),
        }
    }

    /// Read into `buffer`.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }

    /// Write some of `data`.
    pub fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(data),
            Self::Tls(stream) => stream.write(data),
        }
    }
}

/// A connection, busy or waiting for work.
pub struct Connection {
    /// Its socket.
    pub transport: Transport,
    /// The request on it.
    pub job: Option<Job>,
    /// The TCP handshake isn't over.
    pub connecting: bool,
    /// It has carried a whole answer before.
    pub used: bool,
}

impl Connection {
    /// Write as much of its request as the socket takes.
    pub fn write(&mut self) -> io::Result<()> {
        while let Some(job) = self.job.as_mut().filter(|job| !job.is_written()) {
            match self.transport.write(&job.submission.wire[job.written..]) {
                Ok(0) => break,
                Ok(n) => job.written += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        match self.transport.flush() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }
}
