use std::{
    net::{SocketAddr, TcpListener},
    ops::Range,
    sync::{
        LazyLock,
        atomic::{AtomicU16, Ordering},
    },
};

use settings::Secret;
use uuid::Uuid;

/// Below the ports that the system gives to outgoing connections, one of which could take a free port before whoever
/// asked for it listens.
const PORTS: Range<u16> = 20_000..32_000;

/// A port of the loopback interface that nothing listens on at this moment and that was given to nobody before. Tests
/// of other processes begin elsewhere in the range.
///
/// # Panics
/// When no port is free.
pub fn free_port() -> u16 {
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new(Uuid::new_v4().as_u128() as u16));
    let given = || PORTS.start + NEXT.fetch_add(1, Ordering::Relaxed) % (PORTS.end - PORTS.start);
    let mut tries = PORTS.map(|_| given());
    let free = tries.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.expect("a free port")
}

/// The same URL with another host and port, for instance those of a [`crate::Cable`].
pub fn with_address(url: &Secret, address: SocketAddr) -> Secret {
    let (scheme, user, _, path) = parts(url.expose());
    format!("{scheme}://{user}{address}{path}").into()
}

/// The same URL with another database.
pub(crate) fn with_database(url: &Secret, database: &str) -> Secret {
    let (scheme, user, host, path) = parts(url.expose());
    let query = path.find('?').and_then(|at| path.get(at..)).unwrap_or("");
    format!("{scheme}://{user}{host}/{database}{query}").into()
}

/// `host:port` of the URL, for a [`crate::Cable`].
pub fn host(url: &Secret) -> String {
    parts(url.expose()).2.to_owned()
}

/// Scheme, `user:password@` or nothing, `host:port`, and the rest from its slash on.
fn parts(url: &str) -> (&str, &str, &str, &str) {
    let (scheme, rest) = url.split_once("://").expect("a URL with ://");
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (user, host) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
    (scheme, user, host, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_rewritten_in_one_part_only() {
        let url = Secret::from("postgres://me:p@ss@db:5432/one?sslmode=disable");
        assert_eq!(with_database(&url, "two").expose(), "postgres://me:p@ss@db:5432/two?sslmode=disable");
        let address = "127.0.0.1:9".parse().unwrap();
        assert_eq!(
            with_address(&url, address).expose(),
            "postgres://me:p@ss@127.0.0.1:9/one?sslmode=disable"
        );
        assert_eq!(host(&url), "db:5432");
        assert_eq!(with_address(&Secret::from("redis://h:1"), address).expose(), "redis://127.0.0.1:9");
    }
}
