//! A tiny server on a thread of its own, made with async-tungstenite. It speaks all dialects and
//! can misbehave in one chosen way, once, towards one chosen subscriber.

use async_channel::{Receiver, Sender, unbounded};
use async_executor::LocalExecutor;
use async_io::Async;
use async_tungstenite::{WebSocketStream, accept_async, tungstenite::Message};
use futures_lite::{StreamExt, future};
use serde_json::{Value, json};
use std::{
    cell::RefCell,
    net::{SocketAddr, TcpListener, TcpStream},
    rc::Rc,
    thread,
    time::Duration,
};

/// The publication at which a server misbehaves: after the generator's warm-up of 20.
const FATEFUL: usize = 30;

/// The request after which it leaves the one who asks.
const LAST_REQUEST: usize = 100;
/// How long a server that stalls does so, and after how many publications each.
const STALL: Duration = Duration::from_millis(30);
const STALL_EVERY: usize = 64;

/// The channel of all dialects but the gateway's.
const BENCH: &str = "bench";
/// Channels that begin so have a history.
const WITH_HISTORY: &str = "recovery-";

/// How the server treats its victim, a subscriber or one that recovers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    Honest,
    Loses,
    Swaps,
    Repeats,
    Alters,
    /// The victim's delivery carries the id of its neighbour.
    Confuses,
    Closes,
    /// Says to the victim that what it missed is not kept.
    Forgets,
    /// Ends the connection of whoever makes the hundredth request.
    ClosesAsker,
    /// Stands still for a moment again and again, for all.
    Stalls,
}

/// What the server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    Verbatim,
    Gateway,
    Analytics,
}

/// What the server is like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Character {
    pub(crate) language: Language,
    pub(crate) manner: Manner,
    /// Which subscriber suffers, in order of subscription.
    pub(crate) victim: usize,
}

enum Order {
    Say(String),
    Close,
}

/// All subscribers, and what happened so far.
#[derive(Default)]
struct Channel {
    /// Each with its channel.
    subscribers: Vec<(String, Sender<Order>)>,
    /// Publications with their channels; a position is an index.
    history: Vec<(String, String)>,
    recoveries: usize,
    published: usize,
    requests: usize,
    held_back: Option<String>,
}

impl Channel {
    fn subscribe(&mut self, name: &str, teller: &Sender<Order>) {
        self.subscribers.push((name.to_owned(), teller.clone()));
    }
}

enum Next {
    Heard(Option<Message>),
    Told(Order),
}

/// Starts a server that lives as long as the test process.
pub(crate) fn start(character: Character) -> SocketAddr {
    let listener =
        Async::<TcpListener>::bind(([127, 0, 0, 1], 0)).expect("loopback has a free port");
    let address = listener
        .get_ref()
        .local_addr()
        .expect("a bound socket has an address");
    thread::spawn(move || {
        let executor = Rc::new(LocalExecutor::new());
        let channel = Rc::new(RefCell::new(Channel::default()));
        let accepting = async {
            while let Ok((stream, _)) = listener.accept().await {
                stream
                    .get_ref()
                    .set_nodelay(true)
                    .expect("TCP has this option");
                let channel = Rc::clone(&channel);
                executor.spawn(serve(stream, channel, character)).detach();
            }
        };
        async_io::block_on(executor.run(accepting));
    });
    address
}

async fn serve(stream: Async<TcpStream>, channel: Rc<RefCell<Channel>>, character: Character) {
    let Ok(mut socket) = accept_async(stream).await else {
        return;
    };
    if character.language != Language::Verbatim {
        // What any server may do before it is asked anything.
        let _ = socket
            .send(Message::text(r#"{"type":"welcome","data":{}}"#))
            .await;
        let _ = socket.send(Message::Ping("are you there".into())).await;
    }
    let (teller, told) = unbounded();
    loop {
        // A client that floods must not have the thread for itself.
        future::yield_now().await;
        let next = future::or(async { Next::Told(order(&told).await) }, async {
            Next::Heard(socket.next().await.and_then(Result::ok))
        });
        let done = match next.await {
            Next::Told(Order::Say(text)) => socket.send(Message::text(text)).await,
            Next::Told(Order::Close) | Next::Heard(None) => return leave(socket).await,
            Next::Heard(Some(Message::Text(text))) => {
                let reply = react(&text, &teller, &mut channel.borrow_mut(), character);
                match reply {
                    Some(reply) => socket.send(Message::text(reply)).await,
                    None => Ok(()),
                }
            }
            Next::Heard(Some(_)) => Ok(()),
        };
        if done.is_err() {
            return;
        }
    }
}

async fn order(told: &Receiver<Order>) -> Order {
    told.recv().await.unwrap_or(Order::Close)
}

async fn leave(mut socket: WebSocketStream<Async<TcpStream>>) {
    let _ = socket.close(None).await;
}

/// What one text brings about; the returned text goes back on the same connection.
fn react(
    text: &str,
    teller: &Sender<Order>,
    channel: &mut Channel,
    character: Character,
) -> Option<String> {
    if character.manner == Manner::ClosesAsker && (text.contains("ping") || text.contains("ECHO")) {
        channel.requests += 1;
        if channel.requests == LAST_REQUEST {
            // It is gone already if this fails.
            let _ = teller.try_send(Order::Close);
            return None;
        }
    }
    if character.language == Language::Verbatim {
        return match text {
            "SUB" => {
                channel.subscribe(BENCH, teller);
                Some("OK".to_owned())
            }
            _ if text.starts_with("ECHO") => Some(text.to_owned()),
            _ => {
                publish(channel, BENCH, text.to_owned(), character);
                None
            }
        };
    }
    let message: Value = serde_json::from_str(text).ok()?;
    match message["type"].as_str()? {
        "auth" if message["data"]["token"] == "good" => {
            Some(json!({"type": "auth_success"}).to_string())
        }
        "auth" => Some(json!({"type": "auth_error", "data": {"message": "bad token"}}).to_string()),
        "subscribe" if character.language == Language::Analytics => {
            let id = subscription_id(channel.subscribers.len());
            channel.subscribe(BENCH, teller);
            Some(json!({"type": "subscribed", "subscription_id": id}).to_string())
        }
        "subscribe" => {
            let name = message["data"]["channel"].as_str()?;
            let mut answer = json!({"channel": name});
            if name.starts_with(WITH_HISTORY) {
                answer["position"] = position(channel.history.len()).into();
            }
            if let Some(after) = message["data"]["recover"].as_str() {
                let is_victim = channel.recoveries == character.victim;
                let is_forgotten = is_victim && character.manner == Manner::Forgets;
                answer["recovered"] = (!is_forgotten).into();
                if !is_forgotten {
                    replay(
                        channel,
                        name,
                        after,
                        teller,
                        is_victim.then_some(character.manner),
                    )?;
                }
                channel.recoveries += 1;
            }
            channel.subscribe(name, teller);
            Some(json!({"type": "subscribed", "data": answer}).to_string())
        }
        "publish" if character.language == Language::Analytics => {
            let (data, serial) = (message["data"]["data"]["text"].as_str()?, channel.published);
            let text = format!(
                concat!(
                    r#"{{"type":"data","data":{{"event":{{"for":"all","text":"{}"}},"#,
                    r#""subscription_type":"events"}},"subscription_id":"{}","#,
                    r#""timestamp":"2024-01-01T00:00:00.{:03}Z"}}"#
                ),
                data, ID_HERE, serial
            );
            publish(channel, BENCH, text, character);
            None
        }
        "publish" => {
            let data = message["data"]["data"].as_str()?;
            let name = message["data"]["channel"].as_str()?;
            if name.starts_with(WITH_HISTORY) {
                let position = position(channel.history.len() + 1);
                let text = format!(
                    r#"{{"type":"m","channel":"{name}","position":"{position}","data":"{data}"}}"#
                );
                channel.history.push((name.to_owned(), text.clone()));
                publish(channel, name, text, character);
            } else {
                let text = format!(r#"{{"type":"m","channel":"{name}","data":"{data}"}}"#);
                publish(channel, name, text, character);
            }
            None
        }
        "ping" => Some(json!({"type": "pong"}).to_string()),
        _ => None,
    }
}

/// Stands for the subscriber's id until the message is sent.
const ID_HERE: &str = "<id>";

fn subscription_id(index: usize) -> String {
    format!("sub_{index:016}")
}

fn position(index: usize) -> String {
    format!("00000001-{index:013x}")
}

/// What follows a position, treated as the manner says if it is the victim who recovers.
fn replay(
    channel: &Channel,
    name: &str,
    after: &str,
    teller: &Sender<Order>,
    manner: Option<Manner>,
) -> Option<()> {
    let (_, index) = after.split_once('-')?;
    let first = usize::from_str_radix(index, 16).ok()?;
    let missed = channel.history.get(first..)?;
    let missed = missed.iter().filter(|(its, _)| its == name);
    let mut texts: Vec<String> = missed.map(|(_, text)| text.clone()).collect();
    match manner {
        Some(Manner::Loses) => drop(texts.remove(FATEFUL)),
        Some(Manner::Swaps) => texts.swap(FATEFUL, FATEFUL + 1),
        Some(Manner::Repeats) => texts.insert(FATEFUL, texts[FATEFUL].clone()),
        Some(Manner::Alters) => texts[FATEFUL] = texts[FATEFUL].replace("xx", "xX"),
        Some(Manner::Closes) => texts.truncate(FATEFUL),
        _ => {}
    }
    for text in texts {
        teller.try_send(Order::Say(text)).ok()?;
    }
    if manner == Some(Manner::Closes) {
        teller.try_send(Order::Close).ok()?;
    }
    Some(())
}

fn publish(channel: &mut Channel, name: &str, text: String, character: Character) {
    let is_fateful = channel.published == FATEFUL;
    if character.manner == Manner::Stalls && channel.published.is_multiple_of(STALL_EVERY) {
        thread::sleep(STALL);
    }
    for (index, (its, subscriber)) in channel.subscribers.iter().enumerate() {
        if its != name {
            continue;
        }
        let say = |text: &str| {
            let text = text.replace(ID_HERE, &subscription_id(index));
            // A subscriber that is gone hears nothing.
            let _ = subscriber.try_send(Order::Say(text));
        };
        if index != character.victim {
            say(&text);
            continue;
        }
        match character.manner {
            Manner::Loses if is_fateful => {}
            Manner::Swaps if is_fateful => channel.held_back = Some(text.clone()),
            Manner::Repeats if is_fateful => {
                say(&text);
                say(&text);
            }
            Manner::Alters if is_fateful => say(&text.replace('z', "Z")),
            Manner::Confuses if is_fateful => {
                say(&text.replace(ID_HERE, &subscription_id(index + 1)));
            }
            Manner::Closes if is_fateful => {
                let _ = subscriber.try_send(Order::Close);
            }
            _ => {
                say(&text);
                if let Some(late) = channel.held_back.take() {
                    say(&late);
                }
            }
        }
    }
    channel.published += 1;
}
