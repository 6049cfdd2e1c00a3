//! Several things at once, on the one thread that a command has.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

/// Waits for all of them; their results in the same order.
pub(super) async fn all<T>(futures: impl IntoIterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut pending: Vec<(Pin<Box<_>>, Option<T>)> =
        futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    poll_fn(|cx| {
        for (future, result) in &mut pending {
            if result.is_none()
                && let Poll::Ready(done) = future.as_mut().poll(cx)
            {
                *result = Some(done);
            }
        }
        if pending.iter().all(|(_, result)| result.is_some()) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    pending.into_iter().filter_map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn none_waits_for_the_one_before() {
        let (give, take) = oneshot::channel();
        let first = async { take.await.unwrap_or(0) };
        let second = async { give.send(1).map(|()| 2).unwrap_or(0) };
        let both: [Pin<Box<dyn Future<Output = i32>>>; 2] = [Box::pin(first), Box::pin(second)];
        assert_eq!(all(both).await, [1, 2]);
    }
}
