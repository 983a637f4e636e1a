/**
 * A place in React's tree that something else draws into.
 */

import * as React from 'react';

export interface IMounted<T> {
  update(value: T): void;
  dispose(): void;
}

export interface IMountedProps<T> {
  readonly create: (host: HTMLElement) => IMounted<T>;
  readonly value: T;
  readonly className?: string;
}

export function Mounted<T>({ create, value, className }: IMountedProps<T>): JSX.Element {
  const host = React.useRef<HTMLDivElement>(null);
  const mounted = React.useRef<IMounted<T> | null>(null);
  React.useLayoutEffect(() => {
    if (!host.current) {
      return;
    }
    const made = create(host.current);
    mounted.current = made;
    return () => {
      mounted.current = null;
      made.dispose();
    };
  }, [create]);
  React.useLayoutEffect(() => mounted.current?.update(value), [value, create]);
  return <div className={className} ref={host} />;
}
