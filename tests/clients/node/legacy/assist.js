// Using query parameter
const ws = new WebSocket(`ws://localhost:8000/ws/connect?token=${jwtToken}`);

// Or send auth message after connection
ws.onopen = () => {
    ws.send(JSON.stringify({
        type: 'auth',
        token: jwtToken
    }));
};
