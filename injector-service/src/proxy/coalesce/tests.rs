use http::HeaderValue;
use http_body_util::BodyExt as _;

use super::*;

/// Returns a body of these frames. The poll for the frame `pending_at` returns `Pending` once.
fn coalescing(
    frames: Vec<Result<Frame<Bytes>, &'static str>>,
    pending_at: usize,
) -> CoalescingBody<
    impl http_body::Body<Data = Bytes, Error = BodyError> + Unpin,
    impl Fn(&mut HeaderMap) + Unpin,
> {
    let mut at = 0;
    let mut frames = frames.into_iter();
    let stream = futures_util::stream::poll_fn(move |context| {
        at += 1;
        if at == pending_at + 1 {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(frames.next().map(|frame| frame.map_err(BodyError::from)))
    });
    CoalescingBody::new(
        http_body_util::StreamBody::new(stream),
        |trailers: &mut HeaderMap| {
            trailers.remove("bad");
        },
    )
}

fn data(bytes: &[u8]) -> Result<Frame<Bytes>, &'static str> {
    Ok(Frame::data(Bytes::copy_from_slice(bytes)))
}

/// Returns the length of each data frame, the trailers, and the error.
async fn frames_of<B: http_body::Body<Data = Bytes, Error = BodyError> + Unpin>(mut body: B) -> Vec<String> {
    let mut frames = Vec::new();
    while let Some(frame) = body.frame().await {
        frames.push(match frame {
            Err(error) => error.to_string(),
            Ok(frame) => match frame.into_data() {
                Ok(data) => data.len().to_string(),
                Err(frame) => format!("{:?}", frame.into_trailers().unwrap()),
            },
        });
    }
    frames
}

#[tokio::test]
async fn available_small_pieces_are_joined_and_nothing_is_lost() {
    let (small, large) = ([1; 7], [2; SMALL]);
    let mut trailers = HeaderMap::new();
    trailers.insert("good", HeaderValue::from_static("1"));
    trailers.insert("bad", HeaderValue::from_static("1"));
    let end = || Ok(Frame::trailers(trailers.clone()));
    for (frames, pending_at, expected) in [
        (
            vec![data(&small), data(&small), end()],
            9,
            vec!["14", r#"{"good": "1"}"#],
        ),
        (vec![data(&small), data(&small), data(&small)], 2, vec!["14", "7"]),
        (
            vec![data(&small), data(&large), data(&small)],
            9,
            vec!["7", "1024", "7"],
        ),
        (vec![data(&small), end()], 1, vec!["7", r#"{"good": "1"}"#]),
        (vec![data(&large), data(&large)], 9, vec!["1024", "1024"]),
        (vec![], 9, vec![]),
    ] {
        assert_eq!(frames_of(coalescing(frames, pending_at)).await, expected);
    }
    let many = (0..5000).map(|_| data(&small)).collect();
    let joined = frames_of(coalescing(many, 9999)).await;
    assert_eq!(joined.len(), 3, "{joined:?}");
    let sum: usize = joined.iter().map(|length| length.parse::<usize>().unwrap()).sum();
    assert_eq!(sum, 35_000);
    let broken = frames_of(coalescing(vec![data(&small), Err("broken")], 9)).await;
    assert_eq!(broken, ["7", "broken"]);
}
