//! Accepts connections, finds out who connects, and keeps within the limits of how many.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout_at},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    Ingest, connection,
    metrics::{self, Open, Reason},
    proxy,
};

/// Wait after a failed accept: out of file descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How many connections there may be.
pub(crate) struct Places {
    all: Arc<Semaphore>,
    addresses: Mutex<HashMap<IpAddr, usize>>,
    address_max: usize,
}

impl Places {
    pub(crate) fn new(max: usize, address_max: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(max)), addresses: Mutex::default(), address_max }
    }

    fn change<T>(&self, change: impl FnOnce(&mut HashMap<IpAddr, usize>) -> T) -> T {
        change(&mut self.addresses.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A place for one more of this address, while it lives.
    fn of(self: &Arc<Self>, address: IpAddr) -> Option<AddressPlace> {
        let address = household(address);
        self.change(|counts| {
            let count = counts.entry(address).or_default();
            (*count < self.address_max).then(|| {
                *count += 1;
                AddressPlace { places: self.clone(), address }
            })
        })
    }
}

struct AddressPlace {
    places: Arc<Places>,
    address: IpAddr,
}

impl Drop for AddressPlace {
    fn drop(&mut self) {
        self.places.change(|counts| {
            if let Some(count) = counts.get_mut(&self.address) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&self.address);
                }
            }
        });
    }
}

/// Whoever has one IPv6 address has its /64.
fn household(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        v4 => v4,
    }
}

/// Accepts until the service drains.
pub(crate) async fn accept(ingest: Arc<Ingest>, listener: TcpListener, tls: Option<TlsAcceptor>) {
    loop {
        let accepted = tokio::select! {
            () = ingest.life.draining().cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accept a connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match ingest.places.all.clone().try_acquire_owned() {
            Ok(place) => ingest.life.spawn(serve(ingest.clone(), stream, peer, tls.clone(), place)),
            Err(_) => metrics::refused(Reason::Full.label()),
        }
    }
}

async fn serve(
    ingest: Arc<Ingest>,
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    _place: OwnedSemaphorePermit,
) {
    let _open = Open::connection();
    if let Err(reason) = welcome(&ingest, stream, peer, tls).await {
        metrics::refused(reason.label());
        tracing::info!(%peer, reason = reason.label(), "connection refused");
    }
}

async fn welcome(
    ingest: &Arc<Ingest>,
    mut stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
) -> Result<(), Reason> {
    let deadline = Instant::now() + ingest.settings.publish_limit;
    // Answers are small and awaited.
    let _ = stream.set_nodelay(true);
    let draining = ingest.life.draining().clone();
    let address = tokio::select! {
        address = timeout_at(deadline, who(ingest, &mut stream, peer)) => address.map_err(|_| Reason::TooLate)??,
        () = draining.cancelled() => return Err(Reason::Draining),
    };
    let _place = ingest.places.of(address).ok_or(Reason::Address)?;
    match tls {
        None => connection::serve(ingest, stream, address, deadline).await,
        Some(tls) => {
            let accepted = tokio::select! {
                accepted = timeout_at(deadline, tls.accept(stream)) => accepted,
                () = draining.cancelled() => return Err(Reason::Draining),
            };
            let stream = accepted.map_err(|_| Reason::TooLate)?.map_err(|_| Reason::Tls)?;
            connection::serve(ingest, stream, address, deadline).await;
        }
    }
    Ok(())
}

/// Who really connects: the peer, or whoever a trusted proxy says.
async fn who(ingest: &Ingest, stream: &mut TcpStream, peer: SocketAddr) -> Result<IpAddr, Reason> {
    let is_trusted = ingest.settings.proxy_from.iter().any(|network| network.contains(peer.ip()));
    let mut first = [0];
    if !is_trusted || stream.peek(&mut first).await.is_err() || !proxy::FIRST_BYTES.contains(&first[0]) {
        return Ok(peer.ip());
    }
    let said = proxy::read(stream).await.map_err(|_| Reason::Proxy)?;
    Ok(said.unwrap_or(peer.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_places_and_gives_them_back() {
        let places = Arc::new(Places::new(10, 2));
        let of = |text: &str| places.of(text.parse().unwrap());
        let first = of("10.0.0.1").unwrap();
        let _second = of("::ffff:10.0.0.1").unwrap();
        assert!(of("10.0.0.1").is_none());
        assert!(of("10.0.0.2").is_some());
        drop(first);
        let _third = of("10.0.0.1").unwrap();
        assert!(of("10.0.0.1").is_none());
        let _v6 = (of("2001:db8::1").unwrap(), of("2001:db8::2").unwrap());
        assert!(of("2001:db8::3").is_none(), "one household");
    }

    #[test]
    fn an_address_without_connections_takes_no_memory() {
        let places = Arc::new(Places::new(10, 1));
        for last in 0..=255_u8 {
            assert!(places.of(IpAddr::from([10, 0, 0, last])).is_some());
        }
        assert!(places.change(|counts| counts.is_empty()));
        let _one = places.of(IpAddr::from([10, 0, 0, 1]));
        assert!(places.of(IpAddr::from([10, 0, 0, 1])).is_none());
        assert_eq!(places.change(|counts| counts.len()), 1);
    }
}
