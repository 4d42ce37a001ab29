//! What a trusted peer says about the client that it speaks for.
//!
//! Guarantees: nobody but a trusted proxy is believed, and each only about the hop before it: the
//! fields are read from the end.

use std::net::IpAddr;

use http::HeaderMap;

/// The client that a trusted peer speaks for: the last address in `x-forwarded-for` that is not a
/// trusted proxy's, or the peer itself.
pub(super) fn named_client(
    peer: IpAddr,
    headers: &HeaderMap,
    trusts: impl Fn(IpAddr) -> bool,
) -> IpAddr {
    let addresses = headers
        .get_all("x-forwarded-for")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .map(|text| text.trim().parse::<IpAddr>());
    let addresses: Vec<_> = addresses.collect();
    for address in addresses.into_iter().rev() {
        match address {
            Ok(address) if trusts(address) => {}
            Ok(address) => return address,
            Err(_) => break,
        }
    }
    peer
}

/// Whether a trusted peer says that the client came over TLS.
pub(super) fn came_over_tls(headers: &HeaderMap) -> bool {
    let scheme = headers.get("x-forwarded-proto");
    scheme.is_some_and(|scheme| scheme == "https")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_address_that_is_no_trusted_proxy_is_the_client() {
        let peer = IpAddr::from([10, 0, 0, 1]);
        let named = |list: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-forwarded-for", list.parse().unwrap());
            let trusts = |address: IpAddr| address.to_string().starts_with("10.");
            named_client(peer, &headers, trusts).to_string()
        };
        assert_eq!(named("192.0.2.1, 192.0.2.2, 10.0.0.2"), "192.0.2.2");
        assert_eq!(named("10.0.0.3, 10.0.0.2"), "10.0.0.1");
        assert_eq!(named("192.0.2.1, unknown, 10.0.0.2"), "10.0.0.1");
    }
}
