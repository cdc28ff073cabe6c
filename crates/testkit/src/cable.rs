use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// Connections at a time; more are refused as if the cable were cut.
const CONNECTIONS_MAX: usize = 1024;

const BUFFER_BYTES: usize = 16 * 1024;

/// A TCP proxy between a service and something it depends on, to take that away and give it back.
pub struct Cable {
    address: SocketAddr,
    state: watch::Sender<State>,
    accepted: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Whole,
    Stalled,
    Cut,
}

impl Cable {
    /// A cable to `target` (`host:port`), whole.
    ///
    /// # Panics
    /// When there is no port for it.
    pub async fn to(target: impl Into<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port for the cable");
        let address = listener.local_addr().expect("a bound address");
        let (state, watched) = watch::channel(State::Whole);
        let mut tasks = JoinSet::new();
        let accepted = Arc::new(AtomicUsize::new(0));
        tasks.spawn(accept(listener, target.into(), watched, accepted.clone()));
        Self { address, state, accepted, _tasks: tasks }
    }

    /// Where it listens, on 127.0.0.1.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections made so far, also those that were aborted.
    pub fn connections(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Aborts every connection, and every new one as soon as it is made.
    pub fn cut(&self) {
        self.state.send_replace(State::Cut);
    }

    /// Keeps connections open, and accepts new ones, but lets nothing through: a peer that froze.
    pub fn stall(&self) {
        self.state.send_replace(State::Stalled);
    }

    /// Makes it whole again. What was cut stays closed, what was stalled goes on.
    pub fn mend(&self) {
        self.state.send_replace(State::Whole);
    }
}

async fn accept(
    listener: TcpListener,
    target: String,
    state: watch::Receiver<State>,
    count: Arc<AtomicUsize>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((near, _)) = accepted else { continue };
                count.fetch_add(1, Ordering::Relaxed);
                if *state.borrow() == State::Cut || connections.len() >= CONNECTIONS_MAX {
                    abort(&near);
                } else {
                    connections.spawn(carry(near, target.clone(), state.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn carry(mut near: TcpStream, target: String, mut state: watch::Receiver<State>) {
    let (up, down) = (state.clone(), state.clone());
    let carrying = async {
        let mut far = TcpStream::connect(&target).await.ok()?;
        let _immediate = (near.set_nodelay(true), far.set_nodelay(true));
        {
            let (near_read, near_write) = near.split();
            let (far_read, far_write) = far.split();
            tokio::join!(copy(near_read, far_write, up), copy(far_read, near_write, down));
        }
        Some(())
    };
    let whole = tokio::select! {
        done = carrying => done.is_some(),
        _ = state.wait_for(|state| *state == State::Cut) => false,
    };
    if !whole {
        abort(&near);
    }
}

/// Until the reader ends, whose end is passed on.
async fn copy(
    mut reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
    mut state: watch::Receiver<State>,
) {
    let mut buffer = [0; BUFFER_BYTES];
    while let Ok(length @ 1..) = reader.read(&mut buffer).await {
        let flowing = state.wait_for(|state| *state == State::Whole).await.is_ok();
        let Some(bytes) = buffer.get(..length).filter(|_| flowing) else { return };
        if writer.write_all(bytes).await.is_err() {
            return;
        }
    }
    let _passed_on = writer.shutdown().await;
}

/// Closes with a reset, as a host that vanished and came back would.
fn abort(stream: &TcpStream) {
    let _best_effort = stream.set_zero_linger();
}
