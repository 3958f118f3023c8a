class StreamingClient {
    constructor(url, token) {
        this.url = url;
        this.token = token;
        this.subscriptions = new Map();
        this.connect();
    }
    
    connect() {
        this.ws = new WebSocket(this.url);
        
        this.ws.onopen = () => {
            console.log('Connected to streaming server');
            this.authenticate();
        };
        
        this.ws.onmessage = (event) => {
            const message = JSON.parse(event.data);
            this.handleMessage(message);
        };
        
        this.ws.onclose = () => {
            console.log('Disconnected from streaming server');
            // Implement reconnection logic
        };
    }
    
    authenticate() {
        this.send({
            type: 'auth',
            data: { token: this.token }
        });
    }
    
    subscribe(type, filters = {}) {
        const subscriptionId = this.generateId();
        this.send({
            type: 'subscribe',
            data: { type, filters }
        });
        return subscriptionId;
    }
    
    unsubscribe(subscriptionId) {
        this.send({
            type: 'unsubscribe',
            data: { subscription_id: subscriptionId }
        });
        this.subscriptions.delete(subscriptionId);
    }
    
    send(message) {
        if (this.ws.readyState === WebSocket.OPEN) {
            this.ws.send(JSON.stringify(message));
        }
    }
    
    handleMessage(message) {
        switch (message.type) {
            case 'auth_success':
                console.log('Authentication successful');
                break;
            case 'data':
                this.handleData(message);
                break;
            case 'error':
                console.error('Server error:', message.data.error);
                break;
        }
    }
    
    handleData(message) {
        const callback = this.subscriptions.get(message.subscription_id);
        if (callback) {
            callback(message.data);
        }
    }
    
    generateId() {
        return Math.random().toString(36).substr(2, 9);
    }
}

// Usage
const client = new StreamingClient('ws://localhost:8765', 'your-token');

// Subscribe to user events
client.subscribe('events', {
    'event_type': 'user_action',
    'payload.user_id': 'user123'
});

// Subscribe to metrics
client.subscribe('metrics');
