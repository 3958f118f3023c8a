// fanwire_ring.h for C++17: handles that free themselves, and exceptions.
//
// Header only. What is usual (no record, no room, no time) is an answer; all else throws fanwire::ring_error.

#ifndef FANWIRE_RING_HPP
#define FANWIRE_RING_HPP

#include <chrono>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "fanwire_ring.h"

namespace fanwire {

class ring_error : public std::runtime_error {
  public:
    explicit ring_error(FanwireRingStatus status)
        : std::runtime_error(fanwire_ring_last_error()), status_(status) {}

    FanwireRingStatus status() const noexcept { return status_; }

  private:
    FanwireRingStatus status_;
};

namespace detail {

// True for success, false for the answer `usual`.
inline bool check(FanwireRingStatus status,
                  FanwireRingStatus usual = FANWIRE_RING_STATUS_SUCCESS) {
    if (status == FANWIRE_RING_STATUS_SUCCESS) return true;
    if (status == usual) return false;
    throw ring_error(status);
}

template <typename Handle, void (*Free)(Handle *)> struct free_with {
    void operator()(Handle *handle) const noexcept { Free(handle); }
};

template <typename Handle, void (*Free)(Handle *)>
using handle = std::unique_ptr<Handle, free_with<Handle, Free>>;

} // namespace detail

// A record; its payload is valid until the next call of what has shown it.
struct record {
    std::uint64_t position, number, tag;
    std::string_view payload;

    explicit record(const FanwireRingRecord &from)
        : position(from.position), number(from.number), tag(from.tag),
          payload(reinterpret_cast<const char *>(from.payload), from.payload_bytes) {}
};

class ring {
  public:
    // In this process.
    ring(std::uint32_t capacity_bytes, std::uint32_t readers_max) {
        FanwireRing *made = nullptr;
        detail::check(
            fanwire_ring_new(FANWIRE_RING_ABI_VERSION, capacity_bytes, readers_max, &made));
        handle_.reset(made);
    }

    static ring memfd(const std::string &name, const FanwireRingSharedConfig &config) {
        FanwireRing *made = nullptr;
        detail::check(
            fanwire_ring_new_memfd(FANWIRE_RING_ABI_VERSION, name.c_str(), &config, &made));
        return ring(made);
    }

    static ring connect(const std::string &socket_path) {
        FanwireRing *made = nullptr;
        detail::check(fanwire_ring_connect(FANWIRE_RING_ABI_VERSION, socket_path.c_str(), &made));
        return ring(made);
    }

    static ring open_named(const std::string &name) {
        FanwireRing *made = nullptr;
        detail::check(fanwire_ring_open_named(FANWIRE_RING_ABI_VERSION, name.c_str(), &made));
        return ring(made);
    }

    FanwireRingInfo info() const {
        FanwireRingInfo info{};
        detail::check(fanwire_ring_info(get(), &info));
        return info;
    }

    // For the functions of C that have no method here.
    FanwireRing *get() const noexcept { return handle_.get(); }

  private:
    explicit ring(FanwireRing *made) : handle_(made) {}
    detail::handle<FanwireRing, fanwire_ring_free> handle_;
};

class writer {
  public:
    explicit writer(const ring &of) {
        FanwireRingWriter *made = nullptr;
        detail::check(fanwire_ring_writer_new(of.get(), &made));
        handle_.reset(made);
    }

    // False if the ring is full.
    bool write(std::uint64_t tag, std::string_view payload) {
        return detail::check(
            fanwire_ring_writer_write(handle_.get(), tag,
                                      reinterpret_cast<const std::uint8_t *>(payload.data()),
                                      payload.size(), nullptr),
            FANWIRE_RING_STATUS_FULL);
    }

    void wake() { detail::check(fanwire_ring_writer_wake(handle_.get())); }

    FanwireRingWriter *get() const noexcept { return handle_.get(); }

  private:
    detail::handle<FanwireRingWriter, fanwire_ring_writer_free> handle_;
};

// Publishes into a running server: the setting `ingest.shared_memory` of fanwire.
class publisher {
  public:
    explicit publisher(const std::string &socket_path) {
        FanwireRingPublisher *made = nullptr;
        detail::check(fanwire_ring_publisher_connect(FANWIRE_RING_ABI_VERSION,
                                                     socket_path.c_str(), &made));
        handle_.reset(made);
    }

    // A message whose data are JSON. False if the server is still behind after `timeout`.
    bool publish(std::string_view channel, std::string_view kind, std::string_view data,
                 std::chrono::milliseconds timeout = std::chrono::milliseconds(0)) {
        FanwireRingPublication publication{};
        publication.channel = {channel.data(), channel.size()};
        publication.kind = {kind.data(), kind.size()};
        publication.data = reinterpret_cast<const std::uint8_t *>(data.data());
        publication.data_bytes = data.size();
        return publish(publication, timeout);
    }

    bool publish(const FanwireRingPublication &publication,
                 std::chrono::milliseconds timeout = std::chrono::milliseconds(0)) {
        return detail::check(
            fanwire_ring_publisher_publish(get(), &publication,
                                           static_cast<std::uint64_t>(timeout.count())),
            FANWIRE_RING_STATUS_FULL);
    }

    // Waits until the server has read all that was published; false if `timeout` is over before.
    bool flush(std::chrono::milliseconds timeout) {
        return detail::check(
            fanwire_ring_publisher_flush(get(), static_cast<std::uint64_t>(timeout.count())),
            FANWIRE_RING_STATUS_TIMEOUT);
    }

    FanwireRingPublisher *get() const noexcept { return handle_.get(); }

  private:
    detail::handle<FanwireRingPublisher, fanwire_ring_publisher_free> handle_;
};

class reader {
  public:
    explicit reader(const ring &of) {
        FanwireRingReader *made = nullptr;
        detail::check(fanwire_ring_reader_new(of.get(), &made));
        handle_.reset(made);
    }

    std::optional<record> next() {
        FanwireRingRecord found{};
        if (!detail::check(fanwire_ring_reader_next(get(), &found), FANWIRE_RING_STATUS_EMPTY))
            return std::nullopt;
        return record(found);
    }

    // Passes what `next` has shown.
    bool advance() {
        return detail::check(fanwire_ring_reader_advance(get()), FANWIRE_RING_STATUS_EMPTY);
    }

    // Calls `visit(record)` for up to `records_max` records; their numbers are not known there. What it throws
    // comes out here, when its record counts as read.
    template <typename Visit> std::size_t drain(std::size_t records_max, Visit &&visit) {
        struct context {
            Visit &visit;
            std::exception_ptr thrown;
        } context{visit, nullptr};
        auto call = [](void *argument, std::uint64_t position, std::uint64_t tag,
                       const std::uint8_t *payload, std::size_t payload_bytes) -> bool {
            auto &of = *static_cast<struct context *>(argument);
            try {
                of.visit(record(FanwireRingRecord{position, 0, tag, payload, payload_bytes}));
                return true;
            } catch (...) {
                of.thrown = std::current_exception();
                return false;
            }
        };
        std::size_t count = 0;
        detail::check(fanwire_ring_reader_drain(get(), records_max, call, &context, &count));
        if (context.thrown) std::rethrow_exception(context.thrown);
        return count;
    }

    // False if there was no record in time.
    bool wait(std::chrono::nanoseconds timeout, std::uint32_t spins = 0) const {
        return detail::check(fanwire_ring_reader_wait(get(), spins, timeout.count()),
                             FANWIRE_RING_STATUS_TIMEOUT);
    }

    FanwireRingReader *get() const noexcept { return handle_.get(); }

  private:
    detail::handle<FanwireRingReader, fanwire_ring_reader_free> handle_;
};

class observer {
  public:
    explicit observer(const ring &of, FanwireRingStart start = FANWIRE_RING_START_TAIL,
                      std::uint64_t position = 0, std::uint64_t number = 0) {
        FanwireRingObserver *made = nullptr;
        detail::check(fanwire_ring_observer_new(of.get(), start, position, number, &made));
        handle_.reset(made);
    }

    // Shows the next record and passes it. `missed` grows by what the writers have overtaken.
    std::optional<record> next(std::uint64_t &missed) {
        for (;;) {
            FanwireRingRecord found{};
            std::uint64_t more = 0;
            auto status = fanwire_ring_observer_next(handle_.get(), &found, &more);
            if (status == FANWIRE_RING_STATUS_MISSED) {
                missed += more;
                continue;
            }
            if (!detail::check(status, FANWIRE_RING_STATUS_EMPTY)) return std::nullopt;
            return record(found);
        }
    }

    FanwireRingObserver *get() const noexcept { return handle_.get(); }

  private:
    detail::handle<FanwireRingObserver, fanwire_ring_observer_free> handle_;
};

} // namespace fanwire

#endif // FANWIRE_RING_HPP
