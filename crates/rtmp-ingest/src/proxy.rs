//! The PROXY protocol: who really connects, as a trusted proxy says in front of the connection's own bytes
//! (haproxy.org, "The PROXY protocol", versions 1 and 2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// First byte of a header of version 1, `PROXY …`, and of version 2. RTMP begins with 0x03 and TLS with 0x16.
pub(crate) const FIRST_BYTES: [u8; 2] = [b'P', b'\r'];

/// Longest line of version 1 (section 2.1).
const LINE_BYTES_MAX: usize = 107;

/// First bytes of version 2 (section 2.2).
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Longest part behind the fixed one of version 2: addresses and a few extensions, which are passed over.
const BLOCK_BYTES_MAX: usize = 4_096;

/// What stands there is no PROXY header, or one that is too long.
#[derive(Debug)]
pub(crate) struct Broken;

/// Reads a header and nothing beyond it. `None` when the proxy speaks for itself or does not know.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<IpAddr>, Broken> {
    let mut head = [0; 16];
    let (first, _) = head.split_at_mut(1);
    stream.read_exact(first).await.map_err(|_| Broken)?;
    if first == b"P" {
        let mut line = Vec::with_capacity(LINE_BYTES_MAX);
        line.push(b'P');
        while !line.ends_with(b"\r\n") {
            if line.len() >= LINE_BYTES_MAX {
                return Err(Broken);
            }
            line.push(stream.read_u8().await.map_err(|_| Broken)?);
        }
        return version_1(&line).ok_or(Broken);
    }
    let (_, rest) = head.split_at_mut(1);
    stream.read_exact(rest).await.map_err(|_| Broken)?;
    let (signature, &[version_and_command, family, a, b]) = head.split_first_chunk().ok_or(Broken)? else {
        return Err(Broken);
    };
    let bytes = usize::from(u16::from_be_bytes([a, b]));
    if *signature != SIGNATURE || bytes > BLOCK_BYTES_MAX {
        return Err(Broken);
    }
    let mut block = vec![0; bytes];
    stream.read_exact(&mut block).await.map_err(|_| Broken)?;
    version_2(version_and_command, family, &block).ok_or(Broken)
}

/// `PROXY TCP4 SOURCE DESTINATION PORT PORT`, or `PROXY UNKNOWN` and anything.
fn version_1(line: &[u8]) -> Option<Option<IpAddr>> {
    let line = std::str::from_utf8(line).ok()?.strip_suffix("\r\n")?;
    let mut words = line.strip_prefix("PROXY ")?.split(' ');
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(None);
    }
    let (source, destination) = (words.next()?, words.next()?);
    let (from, to) = (words.next()?, words.next()?);
    let ports_are_good = from.parse::<u16>().is_ok() && to.parse::<u16>().is_ok() && words.next().is_none();
    let source: IpAddr = match family {
        "TCP4" => destination.parse::<Ipv4Addr>().ok().and(source.parse::<Ipv4Addr>().ok())?.into(),
        "TCP6" => destination.parse::<Ipv6Addr>().ok().and(source.parse::<Ipv6Addr>().ok())?.into(),
        _ => return None,
    };
    ports_are_good.then_some(Some(source))
}

fn version_2(version_and_command: u8, family: u8, block: &[u8]) -> Option<Option<IpAddr>> {
    match version_and_command {
        // LOCAL: the proxy itself, for its health checks.
        0x20 => Some(None),
        0x21 => match family {
            0x11 => {
                Some(Some(Ipv4Addr::from(*block.first_chunk::<4>().filter(|_| block.len() >= 12)?).into()))
            }
            0x21 => {
                Some(Some(Ipv6Addr::from(*block.first_chunk::<16>().filter(|_| block.len() >= 36)?).into()))
            }
            // Datagrams and local sockets have no address of ours.
            _ => Some(None),
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(bytes: &[u8]) -> Result<(Option<String>, Vec<u8>), Broken> {
        let mut rest = bytes;
        let address = read(&mut rest).await?;
        Ok((address.map(|address| address.to_string()), rest.to_vec()))
    }

    fn binary(version_and_command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[version_and_command, family], &length, block, b"\x03"].concat()
    }

    #[tokio::test]
    async fn headers_are_read_and_nothing_beyond() {
        let v4 = [&[10, 1, 2, 3, 127, 0, 0, 1][..], &[0, 9, 7, 0x8f]].concat();
        let v6 = [&Ipv6Addr::LOCALHOST.octets()[..], &[0; 16], &[0; 4], b"extension"].concat();
        let cases: [(Vec<u8>, Option<&str>); 7] = [
            (b"PROXY TCP4 10.1.2.3 127.0.0.1 5000 1935\r\n\x03".to_vec(), Some("10.1.2.3")),
            (b"PROXY TCP6 2001:db8::1 ::1 5000 1935\r\n\x03".to_vec(), Some("2001:db8::1")),
            (b"PROXY UNKNOWN ffff::1 whatever\r\n\x03".to_vec(), None),
            (binary(0x21, 0x11, &v4), Some("10.1.2.3")),
            (binary(0x21, 0x21, &v6), Some("::1")),
            (binary(0x20, 0x00, b""), None),
            (binary(0x21, 0x31, &[0; 216]), None),
        ];
        for (bytes, address) in cases {
            let (found, rest) = check(&bytes).await.unwrap();
            assert_eq!((found.as_deref(), rest.as_slice()), (address, &b"\x03"[..]), "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(LINE_BYTES_MAX));
        let huge = binary(0x21, 0x11, &[0; BLOCK_BYTES_MAX + 1]);
        let cases: [&[u8]; 11] = [
            b"",
            b"PROXY",
            b"POST / HTTP/1.1\r\n",
            b"PROXY TCP4 10.1.2.3\r\n",
            b"PROXY TCP4 ::1 ::1 1 2\r\n",
            b"PROXY TCP4 10.1.2.3 127.0.0.1 5000 70000\r\n",
            b"PROXY TCP4 10.1.2.3 127.0.0.1 1 2 3\r\n",
            long.as_bytes(),
            b"\r\n\r\n\0\r\nQUIX\n\x21\x11\0\0",
            &huge,
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x04\x0a\x01\x02\x03",
        ];
        for bytes in cases {
            assert!(check(bytes).await.is_err(), "{:?}", String::from_utf8_lossy(bytes));
        }
    }
}
