//! Responses that are nearly right, beside what hyper's client makes of them.

use http::Method;
use proptest::prelude::*;
use proptest::sample::select;

use crate::agreed_responses::compare;
use crate::nearly;

proptest! {
    #![proptest_config(crate::many())]

    #[test]
    fn responses_are_read_as_hyper_reads_them(
        bytes in nearly::response(),
        sizes in nearly::sizes(),
        asked in select(vec![Method::GET, Method::HEAD, Method::POST]),
    ) {
        if let Err(difference) = compare(&bytes, &sizes, &asked) {
            return Err(TestCaseError::fail(difference));
        }
    }
}

#[test]
fn every_status_has_a_body_where_hyper_sees_one() {
    for status in 102..1000 {
        for head in [
            "content-length: 5\r\n\r\nhello",
            "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "\r\nhello",
        ] {
            let text = format!("HTTP/1.1 {status} x\r\n{head}");
            for asked in [Method::GET, Method::HEAD] {
                let compared = compare(text.as_bytes(), &[usize::MAX], &asked);
                assert_eq!(compared, Ok(None), "{text:?}");
            }
        }
    }
}
