use std::fmt;

/// Port of RTMP (RTMP 1.0 section 3, "tcUrl").
pub const PORT_DEFAULT: u16 = 1935;

/// Port of RTMP in TLS where an address names none.
pub const TLS_PORT_DEFAULT: u16 = 443;

/// Why a text is no address to publish to. It is not quoted: it holds a stream key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Neither `rtmp://` nor `rtmps://`.
    #[error("the address begins with neither rtmp:// nor rtmps://")]
    Scheme,
    /// No host, or user and password before it.
    #[error("the address has no host, or has a user in front of it")]
    Host,
    /// A port that is no number from 1 to 65535.
    #[error("the port of the address is not a number from 1 to 65535")]
    Port,
    /// Not an application and a stream key behind it.
    #[error("the path of the address is not /APPLICATION/KEY")]
    Path,
}

/// Where to publish: `rtmp://HOST[:PORT]/APPLICATION/KEY[?QUERY]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// RTMP inside TLS.
    pub tls: bool,
    /// Name or IP address, without the brackets of IPv6.
    pub host: String,
    /// 1935, or 443 with TLS, unless given.
    pub port: u16,
    /// Everything of the path but its last part.
    pub app: String,
    /// The last part, with the query. Secret.
    pub name: String,
    /// The address up to the application, as `connect` tells it.
    pub tc_url: String,
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({})", self.tc_url)
    }
}

impl Address {
    /// Reads an address.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let (scheme, rest) = text.split_once("://").ok_or(AddressError::Scheme)?;
        let (tls, port_default) = match scheme {
            "rtmp" => (false, PORT_DEFAULT),
            "rtmps" => (true, TLS_PORT_DEFAULT),
            _ => return Err(AddressError::Scheme),
        };
        let (authority, path) = rest.split_once('/').ok_or(AddressError::Path)?;
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or(AddressError::Host)?,
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        if host.is_empty() || authority.contains(['@', '?', '#']) {
            return Err(AddressError::Host);
        }
        let port = match port.strip_prefix(':') {
            Some(digits) => digits.parse().ok().filter(|port| *port != 0).ok_or(AddressError::Port)?,
            None if port.is_empty() => port_default,
            None => return Err(AddressError::Host),
        };
        let (path, query) = path.split_at(path.find('?').unwrap_or(path.len()));
        let (app, key) = path.rsplit_once('/').ok_or(AddressError::Path)?;
        if app.is_empty() || key.is_empty() {
            return Err(AddressError::Path);
        }
        Ok(Self {
            tls,
            host: host.to_owned(),
            port,
            app: app.to_owned(),
            name: format!("{key}{query}"),
            tc_url: format!("{scheme}://{authority}/{app}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        let cases = [
            ("rtmp://host/live/KEY", (false, "host", 1935, "live", "KEY", "rtmp://host/live")),
            ("rtmps://host/live/KEY", (true, "host", 443, "live", "KEY", "rtmps://host/live")),
            (
                "rtmp://10.0.0.1:1936/app/instance/KEY?token=a/b?c",
                (
                    false,
                    "10.0.0.1",
                    1936,
                    "app/instance",
                    "KEY?token=a/b?c",
                    "rtmp://10.0.0.1:1936/app/instance",
                ),
            ),
            ("rtmp://[::1]:19/live/K", (false, "::1", 19, "live", "K", "rtmp://[::1]:19/live")),
            ("rtmp://[::1]/live/K", (false, "::1", 1935, "live", "K", "rtmp://[::1]/live")),
        ];
        for (text, (tls, host, port, app, name, tc_url)) in cases {
            let expected = Address {
                tls,
                host: host.to_owned(),
                port,
                app: app.to_owned(),
                name: name.to_owned(),
                tc_url: tc_url.to_owned(),
            };
            assert_eq!(Address::parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        use AddressError::{Host, Path, Port, Scheme};
        let cases = [
            ("", Scheme),
            ("http://host/live/key", Scheme),
            ("host/live/key", Scheme),
            ("rtmp:///live/key", Host),
            ("rtmp://user:password@host/live/key", Host),
            ("rtmp://[::1/live/key", Host),
            ("rtmp://[::1]x/live/key", Host),
            ("rtmp://host:/live/key", Port),
            ("rtmp://host:0/live/key", Port),
            ("rtmp://host:65536/live/key", Port),
            ("rtmp://host", Path),
            ("rtmp://host/live", Path),
            ("rtmp://host/live/", Path),
            ("rtmp://host//key", Path),
            ("rtmp://host/live?key=/x", Path),
        ];
        for (text, error) in cases {
            assert_eq!(Address::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn a_key_is_not_shown() {
        let address = Address::parse("rtmp://host/live/secret?token=secret").unwrap();
        assert!(!format!("{address:?}").contains("secret"));
    }
}
