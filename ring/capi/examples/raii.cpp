// The same from C++: a reader that is waited for, and an observer that is overtaken.
//
//   c++ -std=c++17 raii.cpp -lfanwire_ring && ./a.out

#include <fanwire_ring.hpp>

#include <iostream>
#include <thread>

int main() {
    constexpr std::uint64_t records = 50000;
    fanwire::ring ring(1 << 14, 1);
    fanwire::reader reader(ring);
    fanwire::observer observer(ring);
    std::thread thread([&ring] {
        fanwire::writer writer(ring);
        for (std::uint64_t number = 0; number < records;) {
            if (writer.write(number, "record " + std::to_string(number))) {
                number++;
            } else {
                std::this_thread::yield();
            }
            writer.wake();
        }
    });
    std::uint64_t received = 0, wrong = 0;
    while (received < records) {
        reader.drain(64, [&](const fanwire::record &record) {
            wrong += record.payload != "record " + std::to_string(received);
            wrong += record.tag != received;
            received++;
        });
        reader.wait(std::chrono::seconds(1), 100);
    }
    thread.join();

    // The observer has read nothing meanwhile: what it sees and what it missed are all there was.
    std::uint64_t missed = 0, seen = 0;
    while (auto record = observer.next(missed)) {
        wrong += record->tag != missed + seen;
        seen++;
    }
    wrong += missed + seen != records;

    bool has_thrown = false;
    try {
        fanwire::ring impossible(1000, 1);
    } catch (const fanwire::ring_error &error) {
        has_thrown = error.status() == FANWIRE_RING_STATUS_INVALID_ARGUMENT;
    }
    std::cout << "received " << received << " records, observed " << seen << ", missed " << missed
              << ", wrong " << wrong << '\n';
    return wrong == 0 && has_thrown ? 0 : 1;
}
