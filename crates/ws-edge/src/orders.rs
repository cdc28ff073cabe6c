//! What the edge orders those to do who follow something: to leave soon, or now.

use futures_util::{
    future::{BoxFuture, FutureExt as _},
    stream::FuturesUnordered,
};

use crate::Edge;

/// An order.
pub(crate) enum Order {
    /// Leave soon.
    Farewell,
    /// Leave now.
    Stop,
}

/// The orders that are still to come.
pub(crate) type Orders = FuturesUnordered<BoxFuture<'static, Order>>;

/// Every order that there is.
pub(crate) fn orders(edge: &Edge) -> Orders {
    let (farewell, stop) = (edge.farewell.clone(), edge.life.stopping().clone());
    let farewell = async move {
        farewell.cancelled().await;
        Order::Farewell
    };
    let stop = async move {
        stop.cancelled().await;
        Order::Stop
    };
    Orders::from_iter([farewell.boxed(), stop.boxed()])
}
