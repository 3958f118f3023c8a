// Publishes into a running fanwire through shared memory.
//
//   c++ -std=c++17 publish.cpp -lfanwire_ring -o publish && ./publish /dev/shm/fanwire news 1000

#include <fanwire_ring.hpp>

#include <chrono>
#include <iostream>
#include <string>

int main(int count, char **arguments) try {
    using namespace std::chrono_literals;
    if (count != 4) {
        std::cerr << "usage: " << arguments[0] << " SOCKET CHANNEL COUNT\n";
        return 2;
    }
    fanwire::publisher publisher(arguments[1]);
    const long numbers = std::stol(arguments[3]);
    for (long number = 0; number < numbers; number++) {
        const auto data = "{\"from\":\"cpp\",\"number\":" + std::to_string(number) + "}";
        if (!publisher.publish(arguments[2], "tick", data, 10s)) throw std::runtime_error("the server is behind");
    }
    if (!publisher.flush(10s)) throw std::runtime_error("the server has not read all");
    std::cout << "published " << numbers << " messages\n";
    return 0;
} catch (const std::exception &error) {
    std::cerr << error.what() << "\n";
    return 1;
}
