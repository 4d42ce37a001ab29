//! An address that belongs to a test before anything listens there.
//!
//! Guarantees: until it is dropped, the kernel gives the port to nobody else, whether they listen
//! or connect; connections to it are refused until somebody listens there on purpose. Linux lets a
//! socket that reuses addresses listen where another one of that kind is bound and does not listen;
//! every server of ours and those that tests use set `SO_REUSEADDR`.

use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

/// A port of 127.0.0.1, for a program that is told where to listen, or for nobody.
#[derive(Debug)]
pub struct Reserved {
    pub address: SocketAddr,
    _bound: Option<Socket>,
}

impl Reserved {
    pub fn new() -> Self {
        Self::with(|_| ())
    }

    /// The same for programs that share the port by `SO_REUSEPORT`.
    pub fn shared() -> Self {
        Self::with(|socket| socket.set_reuse_port(true).unwrap())
    }

    fn with(set: impl FnOnce(&Socket)) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        set(&socket);
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        socket.bind(&any.into()).unwrap();
        Self {
            address: socket.local_addr().unwrap().as_socket().unwrap(),
            _bound: Some(socket),
        }
    }

    /// An address of a machine that the test has for itself, where nobody else listens.
    pub fn known(address: SocketAddr) -> Self {
        Self {
            address,
            _bound: None,
        }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }
}
